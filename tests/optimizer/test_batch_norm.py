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
    with pytest.raises(ValueError, match=r"^layer '1' has running statistics of other weights"):
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


def broken_loader(batches, error):
    yield batches[0]
    raise error


@pytest.mark.parametrize("error", [OSError("unreadable"), KeyboardInterrupt()])
def test_after_an_error_of_the_loader_all_is_as_before(error):
    model, optimizer, batches = make()
    model[1].eval()
    weights, statistics = [p.detach().clone() for p in model.parameters()], buffers(model)
    with pytest.raises(type(error)):
        optimizer.eval(model, broken_loader(batches, error))
    assert same(buffers(model), statistics)
    assert same([p.detach() for p in model.parameters()], weights)
    assert model.training and not model[1].training and model[1].momentum == 0.1
    optimizer.step()  # refused in evaluation mode


def test_after_an_error_of_the_model_all_is_as_before():
    model, optimizer, batches = make()
    statistics = buffers(model)
    single = [batches[0], batches[1][0][:1]]  # batch normalisation refuses one example
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        optimizer.eval(model, single)
    assert same(buffers(model), statistics)
    optimizer.step()


def test_an_error_in_evaluation_mode_leaves_the_average_in_place():
    model, optimizer, batches = make()
    optimizer.eval(model, batches)
    weights, statistics = [p.detach().clone() for p in model.parameters()], buffers(model)
    with pytest.raises(ValueError, match="no batch"):
        optimizer.eval(model, [])
    assert same([p.detach() for p in model.parameters()], weights)
    assert same(buffers(model), statistics)
    with pytest.raises(RuntimeError, match="in evaluation mode"):
        optimizer.step()


def test_running_statistics_of_instance_norm_are_recomputed():
    torch.manual_seed(0)
    norm = nn.InstanceNorm1d(2, affine=True, track_running_stats=True)
    model = nn.Sequential(nn.Linear(5, 6), nn.Unflatten(1, (2, 3)), norm)
    optimizer = LearnedOptimizer(model.parameters())
    inputs = 2 * torch.randn(16, 5) + 1
    for _ in range(20):
        optimizer.zero_grad()
        (model(inputs) - 1).square().mean().backward()
        optimizer.step()
    with pytest.raises(ValueError, match=r"^layer '2' has running statistics of other weights"):
        optimizer.eval(model)
    optimizer.eval(model, inputs.split(8))
    assert norm.momentum == 0.1
    with torch.no_grad():
        hidden = model[:2](inputs)
    torch.testing.assert_close(norm.running_mean, hidden.mean((0, 2)))
    torch.testing.assert_close(norm.running_var, hidden.var(2).mean(0))


def test_models_without_batch_norm_need_no_batches():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, track_running_stats=False))
    optimizer = LearnedOptimizer(model.parameters())
    optimizer.eval(model)
    optimizer.eval(model, [torch.zeros(4, 2)])
    optimizer.train()
