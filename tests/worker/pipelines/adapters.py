"""Files with random LoRA adapters, as diffusers saves them."""

import torch
from peft import LoraConfig, get_peft_model_state_dict


def write_adapter(pipe, file, seed=0, rank=4, text_encoder=False):
    """Write an adapter of a pipeline's denoiser, and of its text encoder. `pipe` keeps it, so give a copy."""
    torch.manual_seed(seed)
    parts, layers = {"unet" if hasattr(pipe, "unet") else "transformer": ("to_q", "to_k", "to_v", "to_out.0")}, {}
    if text_encoder:
        parts["text_encoder"] = ("q_proj", "v_proj")
    for part, targets in parts.items():
        config = LoraConfig(r=rank, lora_alpha=8, init_lora_weights=False, target_modules=list(targets))
        getattr(pipe, part).add_adapter(config, adapter_name="written")
        layers[f"{part}_lora_layers"] = get_peft_model_state_dict(getattr(pipe, part), adapter_name="written")
        layers[f"{part}_lora_adapter_metadata"] = config.to_dict()
    type(pipe).save_lora_weights(file.parent, weight_name=file.name, **layers)
    return file
