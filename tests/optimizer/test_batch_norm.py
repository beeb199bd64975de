"""`optimizer.eval(model, batches)`: running statistics belong to the weights that are evaluated."""

import copy

import pytest
import torch
from conftest import same
from torch import nn
from torch.optim.swa_utils import update_bn

from learned_opt import LearnedOptimizer


def make(steps=30):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.BatchNorm1d(6, affine=False),
        nn.Linear(6, 3),
    )  # fmt: skip
    inputs, labels = 3 * torch.randn(64, 4) + 1, torch.randint(3, (64,))
    batches = list(zip(inputs.split(16), labels.split(16), strict=True))
    optimizer = LearnedOptimizer(model.parameters())
    for step in range(steps):
        x, y = batches[step % 4]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer, batches


def buffers(model):
    return {name: value.clone() for name, value in model.named_buffers()}


def test_statistics_are_those_of_update_bn():
    model, optimizer, batches = make()
    optimizer.eval(model, batches)
    found = buffers(model)
    assert model.training and model[1].training and model[1].momentum == 0.1
    update_bn(batches, model)
    assert same(found, buffers(model))
    model.eval()
    optimizer.train()
    optimizer.eval(model, batches)
    torch.testing.assert_close(buffers(model), found, rtol=0, atol=1e-6)
    assert not model.training and not model[1].training


def test_without_them_the_average_is_evaluated_wrongly():
    model, optimizer, batches = make()
    inputs = torch.cat([x for x, _ in batches])
    optimizer.eval()
    right = model(inputs)  # the statistics of this batch, which is all of the data
    model.eval()
    wrong = model(inputs)
    optimizer.train()
    optimizer.eval(model, [inputs])
    torch.testing.assert_close(model(inputs), right, rtol=0.02, atol=0.05)
    assert (wrong - right).abs().max() > 0.2


def test_training_goes_on_bitwise():
    runs = []
    for evaluate in (True, False):
        model, optimizer, batches = make()
        if evaluate:
            optimizer.eval(model, batches)
            optimizer.train()
        x, y = batches[0]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        runs.append([parameter.detach() for parameter in model.parameters()])
    assert same(*runs)


def test_frozen_layers_keep_their_statistics():
    model, _, batches = make()
    model[1].eval()
    optimizer = LearnedOptimizer([*model[0].parameters(), *model[4].parameters()])
    before = buffers(model[1])
    optimizer.eval(model, batches)
    assert same(buffers(model[1]), before)
    assert not model[1].training and model[3].training


@pytest.mark.parametrize("affine", [True, False])
def test_a_frozen_backbone_keeps_its_statistics_though_the_optimizer_was_given_it(affine):
    """As in fine-tuning: its statistics are those that the head was trained with."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6, affine=affine)).eval()
    backbone[1].running_mean.fill_(0.5)
    backbone.requires_grad_(False)
    head = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))
    model, inputs = nn.Sequential(backbone, head), torch.randn(32, 4) + 2
    optimizer = LearnedOptimizer(model.parameters())
    for _ in range(5):
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
    before = buffers(model)
    model.eval().requires_grad_(False)  # as some do before they evaluate
    optimizer.eval(model, [inputs])
    assert torch.equal(backbone[1].running_mean, torch.full((6,), 0.5))
    assert not torch.equal(head[1].running_mean, before["1.1.running_mean"])
    with torch.no_grad():
        exact = head[0](backbone(inputs)).mean(0)
    torch.testing.assert_close(head[1].running_mean, exact)


def test_mappings_are_keyword_arguments():
    model, optimizer, batches = make()
    optimizer.eval(model, batches)
    found = buffers(model)
    optimizer.eval(model, [{"input": x} for x, _ in batches])
    assert same(buffers(model), found)
    optimizer.eval(model, [x for x, _ in batches])
    assert same(buffers(model), found)


def test_what_is_missing_is_said():
    model, optimizer, batches = make(1)
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(ValueError, match=r"^1 has running statistics of other weights"):
        optimizer.eval(model)
    with pytest.raises(ValueError, match="give the model"):
        optimizer.eval(batches=batches)
    assert same([p.clone() for p in model.parameters()], before)
    statistics = buffers(model)
    with pytest.raises(ValueError, match="no batch"):
        optimizer.eval(model, [])
    assert same(buffers(model), statistics)


def test_wrong_arguments_are_named():
    model, optimizer, batches = make(1)
    with pytest.raises(TypeError, match="^model must be an nn.Module, got a list"):
        optimizer.eval(batches, model)
    message = "^batches must be a loader or a list of batches, got a"
    for single in (batches[0][0], {"input": batches[0][0]}):
        with pytest.raises(TypeError, match=message):
            optimizer.eval(model, single)
    with pytest.raises(ValueError, match="^the optimizer has no parameter of this model"):
        optimizer.eval(copy.deepcopy(model), batches)
    optimizer.step()  # none of them began to evaluate


def test_models_without_batch_norm_need_no_batches():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False))
    optimizer = LearnedOptimizer(model.parameters())
    optimizer.eval(model)
    optimizer.eval(model, [torch.zeros(4, 2)])
    optimizer.train()
