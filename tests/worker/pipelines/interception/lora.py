"""LoRA layers with the attributes of peft's, which the worker does not install."""

from torch import nn


class LoraLayer(nn.Module):
    """A linear layer with adapters of rank 2. The active one is added with its scale, or fused into the weights."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer
        self.lora_A, self.lora_B = nn.ModuleDict(), nn.ModuleDict()
        self.scaling = {}
        self.merged_adapters = []
        self._active_adapter = []
        self._disable_adapters = False

    @property
    def in_features(self):
        return self.base_layer.in_features

    def add(self, name):
        rows, columns = self.base_layer.weight.shape
        self.lora_A[name], self.lora_B[name] = nn.Linear(columns, 2, bias=False), nn.Linear(2, rows, bias=False)
        self.scaling[name] = 1.0
        self._active_adapter = [name]

    def delta(self, name):
        return self.lora_B[name].weight @ self.lora_A[name].weight * self.scaling[name]

    def merge(self):
        for name in self._active_adapter:
            self.base_layer.weight.data += self.delta(name)
            self.merged_adapters.append(name)

    def forward(self, x, *args, **kwargs):
        y = self.base_layer(x, *args, **kwargs)
        for name in () if self._disable_adapters or self.merged_adapters else self._active_adapter:
            y = y + self.lora_B[name](self.lora_A[name](x)) * self.scaling[name]
        return y


def lora_layers(model):
    return [layer for layer in model.modules() if isinstance(layer, LoraLayer)]


def add_adapter(model, name, targets):
    """Add an adapter to all linear layers whose names end in one of `targets`, and activate it."""
    for path, layer in list(model.named_modules()):
        if path.rpartition(".")[2] in targets and isinstance(layer, nn.Linear):
            parent, _, last = path.rpartition(".")
            setattr(model.get_submodule(parent), last, LoraLayer(layer))
    for layer in lora_layers(model):
        layer.add(name)
    model.requires_grad_(False)
    model.peft_config = {**getattr(model, "peft_config", {}), name: "configuration"}


def set_adapter(model, name):
    for layer in lora_layers(model):
        layer._active_adapter = [name]


def delete_adapter(model, name):
    for layer in lora_layers(model):
        del layer.lora_A[name], layer.lora_B[name], layer.scaling[name]
    model.peft_config = {other: it for other, it in model.peft_config.items() if other != name}


def scale_adapters(model, factor):
    for layer in lora_layers(model):
        for name in layer._active_adapter:
            layer.scaling[name] *= factor
