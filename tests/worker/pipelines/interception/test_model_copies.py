"""Whatever a request does to a model is the request's own: dtype, attributes, hooks, adapters, weights."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from omni_worker.pipelines.interception.adapters import Adapters
from omni_worker.pipelines.interception.conversions import Conversions
from omni_worker.pipelines.interception.model_copies import UNCHANGED, ModelCopy
from tests.worker.pipelines.interception.lora import LoraLayer, add_adapter


class Processor:
    """Stands for an attention processor: an object without a module's features."""

    def __init__(self):
        self.backend = "native"


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.processor = Processor()
        self.enabled = True
        self.scales = {"a": 1.0}

    def forward(self, x):
        return self.linear(x) * self.scales["a"] if self.enabled else x


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = Layer()
        self.blocks = nn.ModuleList([Layer(), Layer()])
        self.norm = nn.BatchNorm1d(4)
        self.tied = self.first

    def forward(self, x):
        for block in [self.first, *self.blocks]:
            x = block(x)
        return self.norm(x)


CONVERSIONS = Conversions()


def copy_of(model, conversions=CONVERSIONS):
    return ModelCopy(model, conversions, Adapters(model))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model().eval()


def contents(model):
    """Everything about a model that a request could change."""
    attributes = [
        {(name, key): copy.copy(value) for key, value in vars(module).items()}
        for name, module in model.named_modules(remove_duplicate=False)
    ]
    backends = [layer.processor.backend for layer in model.modules() if isinstance(layer, Layer)]
    tensors = {name: (tensor.data_ptr(), tensor.dtype, tensor.tolist()) for name, tensor in model.state_dict().items()}
    return attributes, backends, tensors


CHANGES = {
    "dtype": lambda root: root.to(torch.bfloat16),
    "half": lambda root: root.half(),
    "dtype of a submodule": lambda root: root.blocks[0].to(dtype=torch.float64),
    "dtype of a leaf": lambda root: root.blocks[1].linear.double(),
    "data of a parameter": lambda root: setattr(root.first.linear.weight, "data", torch.zeros(4, 4)),
    "data of every parameter": lambda root: [setattr(p, "data", p.data.half()) for p in root.parameters()],
    "data of a buffer": lambda root: setattr(root.norm.running_mean, "data", torch.ones(4)),
    "data of converted weights": lambda root: setattr(root.double().first.linear.weight, "data", torch.zeros(4, 4)),
    "device": lambda root: root.to("meta"),
    "memory on another device": lambda root: root.first.to_empty(device="meta"),
    "attribute": lambda root: setattr(root.first, "enabled", False),
    "attribute of every layer": lambda root: [setattr(m, "enabled", False) for m in root.modules() if type(m) is Layer],
    "new attribute": lambda root: setattr(root.blocks[0], "cache", []),
    "deleted attribute": lambda root: delattr(root.blocks[0], "scales"),
    "training": lambda root: root.train(),
    "contents of a dict": lambda root: root.blocks[0].scales.update(a=2.0),
    "processor": lambda root: setattr(root.blocks[0], "processor", Processor()),
    "attribute of a processor": lambda root: setattr(root.blocks[0].processor, "backend", "flash"),
    "hook": lambda root: root.blocks[0].register_forward_hook(lambda *_: None),
    "hook of the whole model": lambda root: root.register_forward_pre_hook(lambda *_: None),
    "submodule": lambda root: setattr(root, "first", nn.Identity()),
    "item of a list": lambda root: root.blocks.__setitem__(0, nn.Identity()),
    "removed submodule": lambda root: delattr(root, "tied"),
    "parameter": lambda root: setattr(root.first.linear, "weight", nn.Parameter(torch.zeros(4, 4))),
    "buffer": lambda root: root.norm.register_buffer("running_mean", torch.ones(4)),
    "adapter": lambda root: setattr(root.first, "linear", LoraLayer(root.first.linear)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore")
def test_a_change_is_private_and_noticed(model, change):
    before, other = contents(model), copy_of(model)
    own = copy_of(model)
    assert own.changes() == UNCHANGED
    CHANGES[change](own.root)
    assert own.is_changed
    assert own.changes() != UNCHANGED
    assert contents(model)[1:] == before[1:]
    for own_attributes, others in zip(before[0], contents(model)[0], strict=True):
        assert own_attributes.keys() == others.keys()
        assert all(str(value) == str(others[key]) for key, value in own_attributes.items() if key[1] != "processor")
    assert not other.is_changed
    list(other.root.modules())
    assert other.changes() == UNCHANGED, "to look at the modules is no change"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@torch.no_grad()
def test_the_copy_runs_with_what_was_changed(model, dtype):
    x = torch.randn(2, 4)
    expected = copy.deepcopy(model).to(dtype)(x.to(dtype))
    own = copy_of(model)
    assert torch.equal(own.root.to(dtype)(x.to(dtype)), expected)
    assert own.root.tied is own.root.first, "modules in two places stay one"
    assert own.root.first.linear.weight.dtype == dtype
    assert model.first.linear.weight.dtype == torch.float32


def test_a_model_that_is_converted_and_converted_back_is_unchanged(model):
    own = copy_of(model)
    own.root.to(torch.float64)
    own.root.to(torch.float32)
    assert own.changes() == UNCHANGED
    own.root.half()
    own.root.float()
    assert own.changes() != UNCHANGED, "rounded"


def test_requests_that_change_the_same_share_their_weights_and_their_batches(model):
    one, other, third = copy_of(model), copy_of(model), copy_of(model)
    one.root.to(torch.float64)
    other.root.double()
    third.root.to(torch.float16)
    assert one.changes() == other.changes() != third.changes()
    assert one.root.first.linear.weight.data_ptr() == other.root.first.linear.weight.data_ptr()
    one.root.first.linear.weight.data = torch.zeros(4, 4)
    assert other.root.first.linear.weight.abs().sum() > 0
    one = copy_of(model)
    one.root.to(torch.float64)
    one.root.first.enabled = False
    assert one.changes() != other.changes()
    other.root.first.enabled = False
    assert one.changes() == other.changes()
    one.root.first.register_forward_hook(lambda *_: None)
    assert one.changes() is None, "nobody knows what a hook does"


def test_a_copy_and_its_weights_are_freed_at_once(model):
    gc.collect()
    gc.disable()
    try:
        own = copy_of(model)
        own.root.to(torch.float64)
        held = [weakref.ref(own), weakref.ref(own.root), weakref.ref(own.root.blocks[1].linear.weight)]
        del own
        assert [one() for one in held] == [None] * 3
    finally:
        gc.enable()


@torch.no_grad()
def test_fusing_an_adapter_into_the_weights_is_private(model):
    add_adapter(model, "a", ["linear"])
    before, x = model.first.linear.base_layer.weight.clone(), torch.randn(2, 4)
    own = copy_of(model)
    own.root.first.linear.merge()
    assert torch.equal(model.first.linear.base_layer.weight, before)
    assert not torch.equal(own.root.first.linear.base_layer.weight, before)
    assert torch.allclose(own.root(x), model(x), atol=1e-5), "fused is the same as added"
    assert own.changes() != UNCHANGED


@torch.no_grad()
def test_an_adapters_scale_is_private_and_equal_scales_share_batches(model):
    add_adapter(model, "a", ["linear"])
    copies = [copy_of(model) for _ in range(3)]
    for own, scale in zip(copies, (0.5, 0.5, 0.25), strict=True):
        own.root.first.linear.scaling["a"] *= scale
    assert copies[0].changes() == copies[1].changes() != copies[2].changes()
    assert model.first.linear.scaling == {"a": 1.0}
    copies[2].root.first.linear.scaling["a"] /= 0.25
    assert copies[2].changes() == UNCHANGED


def test_a_layer_with_weights_of_its_own_beside_its_parameters_is_private():
    model = nn.ModuleDict({"lstm": nn.LSTM(4, 4)})
    own = copy_of(model)
    own.root.double()
    assert model["lstm"].weight_ih_l0.dtype == torch.float32
    x = torch.randn(3, 4)
    assert own.root["lstm"](x.double())[0].dtype == torch.float64
    assert model["lstm"](x)[0].dtype == torch.float32


def test_a_deep_copy_of_a_copy_is_a_model_of_its_own(model):
    own = copy_of(model)
    duplicate = copy.deepcopy(own.root)
    duplicate.to(torch.float64)
    assert duplicate.first.linear.weight.dtype == torch.float64
    assert not own.is_changed
