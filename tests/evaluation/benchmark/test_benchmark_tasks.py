"""The tasks of the benchmark: what they are made of, and that they can be trained."""

import math

import pytest
import torch
from torch import nn

from meta_train.evaluation.benchmark.contestants.registry import CONTESTANTS
from meta_train.evaluation.benchmark.tasks import TASKS, functions, mnist1d, models, textures
from meta_train.evaluation.benchmark.training import train_once
from meta_train.evaluation.benchmark.workload import parameter_count


@pytest.mark.parametrize("name", TASKS)
def test_a_task_trains_and_is_measured(name):
    task = TASKS[name]
    adamw = CONTESTANTS["adamw"]
    runs = [
        train_once(task, adamw, {"lr": lr}, seed=seed, steps=2)
        for lr, seed in ((1e-3, 0), (1e-3, 0), (1e-3, 1))
    ]
    first, again, other = (run.losses for run in runs)
    assert first == again
    assert first[0] != other[0] or name == "quadratic"
    assert all(math.isfinite(loss) for loss in first) and len(first) == 3
    assert math.isfinite(runs[0].error)
    if task.error == "error rate":
        assert 0 <= runs[0].error <= 1


def test_there_are_enough_tasks_and_three_large_ones():
    sizes = {}
    for name, task in TASKS.items():
        torch.manual_seed(0)
        sizes[name] = parameter_count(task.make().model)
        assert 1000 <= task.steps <= 2000
    assert len(TASKS) >= 16
    assert sorted(name for name, size in sizes.items() if size > 1_000_000) == [
        "char-gpt", "char-mlp", "ratings",
    ]  # fmt: skip
    assert {name for name, task in TASKS.items() if task.large} == {
        "char-gpt",
        "char-mlp",
        "ratings",
    }


def test_the_hidden_matrices_are_neither_embeddings_nor_the_output():
    torch.manual_seed(0)
    mlp = TASKS["mnist1d-mlp"].make()
    assert [tuple(p.shape) for p in mlp.hidden()] == [(100, 40), (100, 100)]
    gpt = TASKS["char-gpt"].make()
    assert len(gpt.hidden()) == 6 * 4  # the output layer is the embedding
    gru = TASKS["char-gru"].make()
    assert [tuple(p.shape) for p in gru.hidden()] == [(192, 24), (192, 64)]
    assert TASKS["ratings"].make().hidden() == []


def test_mnist1d_has_ten_balanced_classes_of_standardised_signals():
    signals, digits = mnist1d.read_mnist1d()
    assert signals.shape == (25_000, 40)
    assert torch.bincount(digits).tolist() == [2500] * 10
    assert float(signals.mean()) == pytest.approx(0, abs=1e-4)
    assert float(signals.std()) == pytest.approx(1, abs=1e-3)
    # Shapes are moved about: the mean signal of a class says little about its digit.
    means = torch.stack([signals[digits == k].mean(0) for k in range(10)])
    assert float(means.std(0).max()) < 0.5


def test_textures_are_noisy_images_of_twelve_classes():
    images, classes = textures.read_textures()
    assert images.shape == (13_000, 3, 16, 16)
    assert sorted(classes.unique().tolist()) == list(range(12))
    assert 1 < float(images.var()) < 2


def test_gpt_begins_as_gpt_2_does():
    torch.manual_seed(0)
    model = models.GPT(97, 32, 128, 6, 4)
    assert model.symbols.weight.std().item() == pytest.approx(0.02, rel=0.05)
    projection = model.blocks[0].projection.weight
    assert projection.std().item() == pytest.approx(0.02 / math.sqrt(12), rel=0.05)
    names = {name for name, _ in model.named_parameters()}
    assert not any("head" in name for name in names)
    symbols = torch.randint(97, (2, 8))
    later = symbols.clone()
    later[:, 5] = (later[:, 5] + 1) % 97
    before, after = model(symbols)[:, :5], model(later)[:, :5]
    assert torch.allclose(before, after, atol=1e-6)  # nothing is seen of what comes later


def test_rescaled_layers_compute_what_usual_ones_do():
    torch.manual_seed(0)
    usual = nn.Linear(3, 2)
    torch.manual_seed(0)
    rescaled = models.Rescaled(3, 2, 10.0)
    inputs = torch.randn(5, 3)
    assert torch.allclose(usual(inputs), rescaled(inputs), atol=1e-6)
    assert torch.allclose(rescaled.weight, usual.weight / 10)


def test_the_solution_of_the_equation_has_no_residual():
    class Solution(nn.Module):
        def forward(self, x):
            return torch.sin(math.pi * x) + 0.2 * torch.sin(5 * math.pi * x)

    points = torch.linspace(-1, 1, 96)[:, None]
    assert functions._residual(Solution(), (points,)).item() < 1e-8
    assert float(functions._distance(Solution(), (points,))) == 0


def test_the_noise_of_the_quadratic_has_mean_zero_on_the_fixed_set():
    torch.manual_seed(0)
    workload = TASKS["quadratic"].make()
    value = workload.model.value
    curvature = torch.tensor([k**-1.5 for k in range(1, 101)])
    expected = 0.5 * (curvature * value.square()).sum()
    loss = workload.loss(workload.model, workload.fixed())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, value)
    assert torch.allclose(gradient, curvature * value, atol=1e-5)
