"""Videos by UNets: AnimateDiff and PIA (a UNet for images with motion modules), Stable Video Diffusion, ModelScope."""

from typing import Any

from diffusers import (
    AnimateDiffControlNetPipeline,
    AnimateDiffPAGPipeline,
    AnimateDiffPipeline,
    AnimateDiffSDXLPipeline,
    AnimateDiffSparseControlNetPipeline,
    AnimateDiffVideoToVideoControlNetPipeline,
    AnimateDiffVideoToVideoPipeline,
    AutoencoderKLTemporalDecoder,
    ControlNetModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    I2VGenXLPipeline,
    I2VGenXLUNet,
    MotionAdapter,
    PIAPipeline,
    SparseControlNetModel,
    StableVideoDiffusionPipeline,
    TextToVideoSDPipeline,
    TextToVideoZeroPipeline,
    TextToVideoZeroSDXLPipeline,
    UNet2DConditionModel,
    UNet3DConditionModel,
    UNetSpatioTemporalConditionModel,
    VideoToVideoSDPipeline,
)

from .specimen import Specimen
from .text import (
    assemble,
    call,
    clip_image_processor,
    clip_text,
    clip_tokenizer,
    clip_vision,
    image,
    kl_vae,
)

SIDE = 16
FRAMES = 3  # not 2, which the batch of guidance is
CHANNELS = (16, 32)


def frames(i: int, count: int = FRAMES, side: int = SIDE) -> list[Any]:
    return [image(100 * i + frame, side) for frame in range(count)]


def _ddim() -> DDIMScheduler:
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)


def _unet(**changes: Any) -> UNet2DConditionModel:
    config = {
        "block_out_channels": CHANNELS, "layers_per_block": 1, "sample_size": SIDE // 2, "cross_attention_dim": 32,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "attention_head_dim": 8, "norm_num_groups": 8,
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }  # fmt: skip
    return UNet2DConditionModel(**(config | changes))


def _unet_xl() -> UNet2DConditionModel:
    return _unet(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, transformer_layers_per_block=(1, 2), projection_class_embeddings_input_dim=80,
        cross_attention_dim=64,
    )  # fmt: skip


def _motion(**changes: Any) -> MotionAdapter:
    config = {
        "block_out_channels": CHANNELS, "motion_layers_per_block": 1, "motion_num_attention_heads": 2,
        "motion_norm_num_groups": 4, "motion_max_seq_length": 8,
    }  # fmt: skip
    return MotionAdapter(**(config | changes))


def _control() -> ControlNetModel:
    return ControlNetModel(
        block_out_channels=CHANNELS, layers_per_block=1, cross_attention_dim=32, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), norm_num_groups=8,
        conditioning_embedding_out_channels=(8, 16),
    )  # fmt: skip


def _sparse_control() -> SparseControlNetModel:
    return SparseControlNetModel(
        block_out_channels=CHANNELS, layers_per_block=1, cross_attention_dim=32, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"), norm_num_groups=8,
        motion_max_seq_length=8, motion_num_attention_heads=2,
    )  # fmt: skip


def _clip_pipe(cls: type, unet: Any, **components: Any) -> Any:
    shared = {"vae": kl_vae(CHANNELS), "scheduler": _ddim(), "text_encoder": clip_text(), "tokenizer": clip_tokenizer()}
    pipe = assemble(cls, unet=unet, **(shared | components))
    # The classes of AnimateDiff make a UNet of their own out of this one and the motion modules.
    pipe.unet.eval()
    return pipe


def _animate(cls: type, **components: Any) -> Any:
    return _clip_pipe(cls, _unet(), **({"motion_adapter": _motion()} | components))


def _two_texts() -> dict[str, Any]:
    # 64 wide together, 32 the second one's projection.
    return {"text_encoder_2": clip_text(projection=True), "tokenizer_2": clip_tokenizer()}


def _svd() -> Any:
    return assemble(
        StableVideoDiffusionPipeline,
        unet=UNetSpatioTemporalConditionModel(
            block_out_channels=(32, 64), layers_per_block=1, sample_size=SIDE, in_channels=8, out_channels=4,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), num_attention_heads=(2, 4),
            cross_attention_dim=32, addition_time_embed_dim=8, projection_class_embeddings_input_dim=24,
        ),
        # The VAE is made with 32 groups.
        vae=AutoencoderKLTemporalDecoder(
            block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        ),
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", interpolation_type="linear",
            prediction_type="v_prediction", use_karras_sigmas=True, sigma_min=0.02, sigma_max=700.0,
            timestep_type="continuous",
        ),
        image_encoder=clip_vision(size=224), feature_extractor=clip_image_processor(),
    )  # fmt: skip


def _svd_arguments(i: int) -> dict[str, Any]:
    guidance = (3.0, 2.5, 4.0, 2.0)[i % 4]
    more = {"prompt": None, "guidance_scale": None, "max_guidance_scale": guidance, "decode_chunk_size": FRAMES}
    return _video(i, image=image(i, SIDE), **more)


def _unet_3d(model: type = UNet3DConditionModel, **changes: Any) -> Any:
    return model(
        block_out_channels=CHANNELS, layers_per_block=1, sample_size=SIDE // 2, cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), attention_head_dim=8, norm_num_groups=8,
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"), **changes,
    )  # fmt: skip


def _video(i: int, **more: Any) -> dict[str, Any]:
    return call(i, **({"height": SIDE, "width": SIDE, "num_frames": FRAMES} | more))


def _from_video(i: int, **more: Any) -> dict[str, Any]:
    return _video(i, num_frames=None, video=frames(i), strength=0.8, **more)


def _zero(i: int, **more: Any) -> dict[str, Any]:
    """The first frame alone as far as t1, the others warped from it at t0."""
    return _video(i, num_frames=None, video_length=FRAMES, t0=1, t1=2, **more)


SPECIMENS = [
    Specimen(
        "AnimateDiffPipeline", "AnimateDiff", "text-to-video", lambda: _animate(AnimateDiffPipeline), _video,
    ),
    Specimen(
        "AnimateDiffSDXLPipeline", "AnimateDiff", "text-to-video",
        lambda: _clip_pipe(AnimateDiffSDXLPipeline, _unet_xl(), motion_adapter=_motion(), **_two_texts()), _video,
    ),
    Specimen(
        "AnimateDiffPAGPipeline", "AnimateDiff", "text-to-video", lambda: _animate(AnimateDiffPAGPipeline),
        lambda i: _video(i, pag_scale=(3.0, 2.0, 4.0, 1.0)[i % 4]),
    ),
    Specimen(
        "AnimateDiffControlNetPipeline", "AnimateDiff", "ControlNet",
        lambda: _animate(AnimateDiffControlNetPipeline, controlnet=_control()),
        lambda i: _video(i, conditioning_frames=frames(i)),
    ),
    Specimen(
        "AnimateDiffSparseControlNetPipeline", "AnimateDiff", "ControlNet",
        lambda: _animate(AnimateDiffSparseControlNetPipeline, controlnet=_sparse_control()),
        lambda i: _video(i, conditioning_frames=frames(i, 1), controlnet_frame_indices=[0]),
    ),
    Specimen(
        "AnimateDiffVideoToVideoPipeline", "AnimateDiff", "video-to-video",
        lambda: _animate(AnimateDiffVideoToVideoPipeline), _from_video,
    ),
    Specimen(
        "AnimateDiffVideoToVideoControlNetPipeline", "AnimateDiff", "ControlNet",
        lambda: _animate(AnimateDiffVideoToVideoControlNetPipeline, controlnet=_control()),
        lambda i: _from_video(i, conditioning_frames=frames(i + 50)),
    ),
    Specimen(
        "PIAPipeline", "AnimateDiff", "image-to-video",
        lambda: _animate(PIAPipeline, motion_adapter=_motion(conv_in_channels=9)),
        lambda i: _video(i, image=image(i, SIDE)),
    ),
    Specimen("StableVideoDiffusionPipeline", "Stable Video Diffusion", "image-to-video", _svd, _svd_arguments),
    Specimen(
        "TextToVideoSDPipeline", "ModelScope", "text-to-video",
        lambda: _clip_pipe(TextToVideoSDPipeline, _unet_3d()), _video,
    ),
    Specimen(
        "VideoToVideoSDPipeline", "ModelScope", "video-to-video",
        lambda: _clip_pipe(VideoToVideoSDPipeline, _unet_3d()),
        lambda i: _from_video(i, height=None, width=None),
    ),
    Specimen(
        "I2VGenXLPipeline", "I2VGenXL", "image-to-video",
        lambda: _clip_pipe(
            I2VGenXLPipeline, _unet_3d(I2VGenXLUNet), image_encoder=clip_vision(),
            feature_extractor=clip_image_processor(),
        ),
        # Skipping the last layer, the default, needs a part of the text encoder that transformers has since renamed.
        lambda i: _video(i, image=image(i, SIDE)) | {"clip_skip": None},
    ),
    Specimen(
        "TextToVideoZeroPipeline", "Text2Video-Zero", "text-to-video",
        lambda: _clip_pipe(
            TextToVideoZeroPipeline, _unet(), safety_checker=None, feature_extractor=None, requires_safety_checker=False
        ),
        lambda i: _zero(i, output_type="tensor"),
    ),
    Specimen(
        "TextToVideoZeroSDXLPipeline", "Text2Video-Zero", "text-to-video",
        lambda: _clip_pipe(TextToVideoZeroSDXLPipeline, _unet_xl(), **_two_texts()), _zero,
    ),
]  # fmt: skip
