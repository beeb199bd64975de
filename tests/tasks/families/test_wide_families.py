"""Families beyond MLPs: regression, word pairs, recurrence, GPT-2's start, and the varied tasks."""

import math

import pytest
import torch
from conftest import same
from torch import nn

from learned_opt import create_rule
from meta_train.evaluation.curves import train_curves
from meta_train.runtime.seeding import generator
from meta_train.tasks import create_task
from meta_train.tasks.families.char_recurrent import Recurrent
from meta_train.tasks.registry import create_mixture

CPU = torch.device("cpu")


def sample(family, seed=0):
    task = family.sample_task(generator("member", seed)).task
    return task.sample(generator("problem", seed), CPU)


def batches(problem, count=2):
    source = generator("batches")
    return [problem.draw(source) for _ in range(count)]


def test_whole_batches_hold_all_examples_of_the_problem():
    family = create_task("regression", whole_probability=1.0, examples=(64, 64))
    problem = sample(family)
    first, second = batches(problem)
    assert same(first, second)
    assert same(first, problem.full())
    assert first[0].shape[0] == 64
    assert problem.draw_validation is None


def test_other_batches_are_drawn():
    family = create_task("regression", whole_probability=0.0, batch_size=(8, 8))
    first, second = batches(sample(family))
    assert first[0].shape[0] == 8
    assert not same(first, second)


@pytest.mark.parametrize("log_condition", [0.0, 8.0])
def test_inputs_are_as_ill_conditioned_as_asked(log_condition):
    conditions = []
    for seed in range(20):
        family = create_task(
            "regression",
            log_condition=log_condition,
            inputs=(6, 6),
            examples=(1000, 1000),
            whole_probability=1.0,
        )
        inputs, _ = sample(family, seed).full()
        assert float(inputs.square().mean()) == pytest.approx(1, rel=0.1)
        singular = torch.linalg.svdvals(inputs)
        conditions.append(2 * math.log(float(singular[0] / singular[-1])))
    assert max(conditions) < log_condition + 1
    if log_condition:
        assert max(conditions) > 6 and min(conditions) < 3  # U(0, 8)


@pytest.mark.parametrize("noisy", [False, True])
def test_a_linear_model_fits_a_linear_function_but_for_the_noise(noisy):
    family = create_task(
        "regression",
        depth=(0, 0),
        noise_probability=float(noisy),
        whole_probability=1.0,
        log_condition=1.0,
        examples=(256, 256),
    )
    inputs, targets = sample(family, 3).full()
    inputs = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
    fitted = inputs @ torch.linalg.lstsq(inputs, targets).solution
    error = float((fitted - targets).square().mean())
    assert (error > 1e-2) if noisy else (error < 1e-6)


def test_few_words_are_frequent_and_a_batch_leaves_most_rows_alone():
    family = create_task("word-pairs", vocabulary=(500, 500), batch_size=(16, 16), negatives=2)
    problem = sample(family)
    words, targets = problem.full()
    assert words.shape == (1000, 4)  # a word, its partner, two others
    assert same(targets[0], torch.tensor([1.0, 0.0, 0.0]))
    counts = torch.bincount(words[:, 0], minlength=500)
    assert counts[:5].sum() > 5 * counts[250:].sum() / 5
    parameters = {key: value.requires_grad_() for key, value in problem.parameters.items()}
    loss, _ = problem.loss(parameters, problem.buffers, batches(problem)[0])
    loss.backward()
    idle = (parameters["word.weight"].grad == 0).all(-1)
    assert 484 <= int(idle.sum()) < 500


def test_the_tanh_cell_is_torchs():
    cell, torchs = Recurrent(5, gated=False), nn.RNN(5, 5, batch_first=True)
    with torch.no_grad():
        torchs.weight_ih_l0.copy_(cell.inputs.weight)
        torchs.bias_ih_l0.copy_(cell.inputs.bias)
        torchs.weight_hh_l0.copy_(cell.state.weight)
        torchs.bias_hh_l0.zero_()
    inputs = torch.randn(3, 7, 5, generator=generator("inputs"))
    torch.testing.assert_close(cell(inputs), torchs(inputs)[0])


def test_the_gated_cell_is_its_equation():
    cell = Recurrent(4, gated=True)
    inputs = torch.randn(2, 3, 4, generator=generator("inputs"))
    h = torch.zeros(2, 4)
    for t in range(3):
        f = torch.sigmoid(cell.gate_inputs(inputs[:, t]) + h @ cell.gate_state.weight.T)
        candidate = torch.tanh(cell.inputs(inputs[:, t]) + (f * h) @ cell.state.weight.T)
        h = (1 - f) * h + f * candidate
        torch.testing.assert_close(cell(inputs)[:, t], h)


def test_a_transformer_begins_as_gpt_2_does_and_ties_its_embedding():
    settings = {"width": (24, 24), "depth": (1, 1), "length": (8, 8), "scale_spread": 0.0}
    plain = sample(create_task("char-transformer", **settings))
    tied = sample(create_task("char-transformer", init_std=0.02, tied=True, **settings))
    assert set(plain.parameters) - set(tied.parameters) == {"head.weight"}
    for name, value in tied.parameters.items():
        if "norm" in name:
            assert bool((value == (1.0 if name.endswith("weight") else 0.0)).all())
        elif value.dim() > 1:
            assert float(value.std()) == pytest.approx(0.02, rel=0.2), name
        else:
            assert not value.any(), name
    parameters = {key: value.requires_grad_() for key, value in tied.parameters.items()}
    loss, _ = tied.loss(parameters, tied.buffers, batches(tied)[0])
    (slope,) = torch.autograd.grad(loss, [parameters["embedding.weight"]])
    assert bool((slope != 0).any(1).all())  # of every symbol: through the output layer


def test_a_standard_deviation_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="init_std must be positive and finite, got 0"):
        create_task("char-transformer", init_std=0)


def test_convolutions_without_normalisation_have_biases_and_take_batches_of_one():
    family = create_task("conv", normalize=False, batch_size=(1, 1), depth=(2, 2))
    problem = sample(family)
    assert not problem.buffers
    assert sorted(problem.parameters) == [
        *("0.bias", "0.weight", "2.bias", "2.weight", "5.bias", "5.weight"),
    ]
    with pytest.raises(ValueError, match="at least 2 for batch normalisation"):
        create_task("conv", batch_size=(1, 1))


VARIED = [
    "mixer",
    "gated MLP",
    "highway",
    "dilated convolutions",
    "deep set",
    "radial basis",
    "Euler flow",
    "graph",
    "factorization machine",
    "triplets",
    "deep linear",
    "denoiser",
    "quantiles",
    "counts",
    "margins",
    "waves",
]


def test_the_varied_tasks_are_sixteen_and_not_in_the_default_mixture():
    assert list(create_task("varied").held_out()) == VARIED
    assert "varied" not in create_mixture().families
    assert "varied" in create_mixture(families={"varied": {}}).families


@pytest.mark.parametrize("name", VARIED)
def test_a_varied_task_is_trained_by_the_default(name):
    task = create_task("varied").held_out()[name]
    curves = train_curves(
        create_rule("orthogonal-momentum"),
        task,
        seeds=range(2),
        steps=60,
        check_every=60,
        device="cpu",
    )
    first, last = curves.losses[0, :, :4].mean(), curves.final_losses(60)[0]
    assert float(last.mean()) < float(first)
    assert bool((last > 0).all())
