"""Modules of torch.nn's layers alone get a cheap copy; all others the safe one."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from learned_opt.adaptation.module_copy import call_with_tensors
from learned_opt.adaptation.plain_modules import is_plain


def conv():
    layers = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Dropout(0.5)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12, 2))


def with_hook(register):
    module = conv()
    getattr(module[0], register)(lambda *arguments: None)
    return module


def with_own_forward():
    module = conv()
    module[5].forward = lambda x: x
    return module


class Recomputing(nn.Sequential):
    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=False)


def compiled():
    module = conv()
    module[0].compile(backend="eager")
    return module


UNKNOWN = {
    "forward hook": lambda: with_hook("register_forward_hook"),
    "forward hook before": lambda: with_hook("register_forward_pre_hook"),
    "backward hook": lambda: with_hook("register_full_backward_hook"),
    "backward hook before": lambda: with_hook("register_full_backward_pre_hook"),
    "own forward": with_own_forward,
    "own class": lambda: Recomputing(conv()),
    "own class inside": lambda: nn.Sequential(Recomputing(conv())),
    "compiled": compiled,
    "parametrised": lambda: parametrizations.weight_norm(nn.Linear(2, 2)),
    "embedding that is renormalised": lambda: nn.Embedding(3, 2, max_norm=1.0),
    "recurrent": lambda: nn.LSTM(2, 2),
    "attention": lambda: nn.MultiheadAttention(2, 1),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_unknown_is_not_plain(name):
    assert not is_plain(UNKNOWN[name]())


def test_layers_of_torch_are_plain_until_a_hook_comes():
    module = conv()
    assert is_plain(module) and is_plain(nn.CrossEntropyLoss()) and is_plain(nn.Embedding(3, 2))
    handle = module[1].register_forward_hook(lambda *arguments: None)
    assert not is_plain(module)
    handle.remove()
    assert is_plain(module)


def test_a_plain_module_runs_as_torchs_functional_call_and_is_left_alone():
    torch.manual_seed(0)
    module, other = conv(), conv()
    images = torch.randn(6, 1, 4, 4)
    given = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    before = {key: value.clone() for key, value in module.state_dict().items()}
    kept = {key: value.clone() for key, value in given.items()}
    torch.manual_seed(1)
    output, after = call_with_tensors(module, given, lambda copied: copied(images.clone()))
    torch.manual_seed(1)
    assert torch.equal(output, other(images.clone()))  # writes its running statistics
    assert after.keys() == given.keys()
    for key, value in other.state_dict().items():
        assert torch.equal(after[key], value)
    assert not torch.equal(after["1.running_mean"], kept["1.running_mean"])
    assert after["1.num_batches_tracked"] == 1 and module[1].num_batches_tracked == 0
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    output.sum().backward()
    assert other[5].weight.grad is not None and module[5].weight.grad is None


def test_the_buffers_that_are_given_are_not_written():
    module, images = conv(), torch.randn(6, 1, 4, 4)
    buffers = {key: value.clone() for key, value in module.named_buffers()}
    _, after = call_with_tensors(module, buffers, lambda copied: copied(images.clone()))
    assert after["1.num_batches_tracked"] == 1
    assert buffers["1.num_batches_tracked"] == 0 and not buffers["1.running_mean"].any()


def test_layers_and_weights_that_stand_twice_get_one_tensor():
    layer, tied = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    tied.weight = layer.weight
    module = nn.Sequential(layer, layer, tied)
    given = {"0.weight": 2 * torch.eye(3)}
    output, after = call_with_tensors(module, given, lambda copied: copied(torch.ones(1, 3)))
    assert torch.equal(output, torch.full((1, 3), 8.0))
    assert after["0.weight"] is given["0.weight"]
