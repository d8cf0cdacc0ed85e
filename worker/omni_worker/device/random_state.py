"""The state of torch's global random generators: the CPU's, and the current GPU's once it is in use."""

import torch
from torch import Tensor, default_generator

CPU_BYTES = default_generator.get_state().numel()


def random_state() -> Tensor:
    """The state of the generators, as one tensor of bytes."""
    generators = _device_generators()
    if not generators:
        return default_generator.get_state()
    return torch.cat([default_generator.get_state(), *[generator.get_state() for generator in generators]])


def set_random_state(state: Tensor) -> None:
    """Set the generators to an earlier `random_state`. One that was not in use then keeps its state."""
    if state.numel() == CPU_BYTES:
        default_generator.set_state(state)
        return
    default_generator.set_state(state[:CPU_BYTES].clone())  # torch reads a state from the start of its storage
    start = CPU_BYTES
    for generator in _device_generators():
        size = generator.get_state().numel()
        generator.set_state(state[start : start + size].clone())
        start += size


def seeded_random_state(seed: int) -> Tensor:
    """The state of the generators after `torch.manual_seed(seed)`. It changes none of them."""
    states = [torch.Generator().manual_seed(seed).get_state()]
    states += [torch.Generator(generator.device).manual_seed(seed).get_state() for generator in _device_generators()]
    return torch.cat(states)


def _device_generators() -> list[torch.Generator]:
    if not torch.cuda.is_initialized():
        return []
    return [torch.cuda.default_generators[torch.cuda.current_device()]]
