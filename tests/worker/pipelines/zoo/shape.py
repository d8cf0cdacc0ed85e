"""Shap-E: the weights of an implicit function, denoised.

They are what is compared: the renderer draws 20 views in batches of exactly 4096 rays, too slow at the least size that
fills them, 32 pixels a side.
"""

from typing import Any

from diffusers import HeunDiscreteScheduler, PriorTransformer, ShapEImg2ImgPipeline, ShapEPipeline
from diffusers.pipelines.shap_e.renderer import ShapERenderer

from .specimen import Specimen
from .text import assemble, call, clip_image_processor, clip_text, clip_tokenizer, clip_vision, image


def _pipe(cls: type, **components: Any) -> Any:
    prior = PriorTransformer(
        num_attention_heads=2, attention_head_dim=16, embedding_dim=16, num_embeddings=8, embedding_proj_dim=32,
        time_embed_dim=64, num_layers=2, clip_embed_dim=32, additional_embeddings=0, time_embed_act_fn="gelu",
        norm_in_type="layer", encoder_hid_proj_type=None, added_emb_type=None,
        embedding_proj_norm_type="layer" if cls is ShapEImg2ImgPipeline else None,
    )  # fmt: skip
    renderer = ShapERenderer(
        param_shapes=((8, 93), (8, 8), (8, 8), (8, 8)), d_latent=16, d_hidden=8, n_output=12, background=(0.1, 0.1, 0.1)
    )
    scheduler = HeunDiscreteScheduler(
        beta_schedule="exp",
        num_train_timesteps=1024,
        prediction_type="sample",
        use_karras_sigmas=True,
        clip_sample=True,
    )
    return assemble(cls, prior=prior, shap_e_renderer=renderer, scheduler=scheduler, **components)


SPECIMENS = [
    Specimen(
        "ShapEPipeline", "Shap-E", "other",
        lambda: _pipe(ShapEPipeline, text_encoder=clip_text(projection=True), tokenizer=clip_tokenizer()),
        lambda i: call(i, output_type="latent"),
    ),
    Specimen(
        "ShapEImg2ImgPipeline", "Shap-E", "other",
        lambda: _pipe(
            ShapEImg2ImgPipeline, image_encoder=clip_vision(projection=False), image_processor=clip_image_processor()
        ),
        lambda i: call(i, prompt=None, image=image(i), output_type="latent"),
    ),
]  # fmt: skip
