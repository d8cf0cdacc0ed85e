"""The keyword arguments of a pipeline's call."""

from omni_worker.model_card import ServingDefaults
from omni_worker.pipelines.arguments.call_arguments import CallArguments
from omni_worker.requests import GenerationParams
from tests.worker.pipelines.survey import specimen
from tests.worker.pipelines.tiny import build
from tests.worker.pipelines.zoo import flux, qwen_image, stable_diffusion_3


def test_guidance_goes_to_the_argument_that_the_model_listens_to():
    for module, name, argument in (
        (qwen_image, "QwenImagePipeline", "true_cfg_scale"),
        (flux, "FluxPipeline", "guidance_scale"),
        (stable_diffusion_3, "StableDiffusion3Pipeline", "guidance_scale"),
    ):
        kwargs = CallArguments(build(specimen(module, name)), ServingDefaults()).build(
            GenerationParams(prompt="p", guidance=3.0)
        )
        assert kwargs[argument] == 3.0
        assert ("negative_prompt" in kwargs) == (argument == "true_cfg_scale"), (
            "without one, the scale would do nothing"
        )
