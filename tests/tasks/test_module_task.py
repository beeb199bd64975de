"""`ModuleTask`: any module, loss and data."""

import math
from collections import UserDict

import pytest
import torch
from conftest import same
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from learned_opt import create_rule
from meta_train.inner.loop import InnerLoop
from meta_train.inner.state import stack, start
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.runtime.seeding import generator
from meta_train.tasks import ModuleTask
from meta_train.tasks.data import in_memory

CPU = torch.device("cpu")


def regression(rows=12, **settings):
    inputs = torch.arange(3.0 * rows).reshape(rows, 3) / rows
    data = inputs, inputs[:, :2].cos()
    return ModuleTask(lambda: nn.Linear(3, 2), nn.functional.mse_loss, data, 4, **settings)


def sample(task, seed=0):
    return task.sample(generator("problem", seed), CPU)


def row_set(inputs):
    return {tuple(row) for row in inputs.tolist()}


def test_a_module_a_loss_and_data_make_a_task():
    task = regression()
    problem = sample(task)
    x, y = problem.draw(generator("batch"))
    assert x.shape == (4, 3) and y.shape == (4, 2)
    loss, _ = problem.loss(problem.parameters, {}, (x, y))
    expected = nn.functional.linear(x, problem.parameters["weight"], problem.parameters["bias"])
    torch.testing.assert_close(loss, nn.functional.mse_loss(expected, y))
    assert task.sample_task(generator(0)).name == "module-task"
    assert problem.draw_validation is None


def test_a_data_set_and_a_loader_are_read_whole():
    pair = torch.randn(10, 3), torch.randn(10, 2)
    kept = TensorDataset(*pair)
    for data in (pair, kept, DataLoader(kept, batch_size=4)):
        task = ModuleTask(lambda: nn.Linear(3, 2), nn.functional.mse_loss, data, 4)
        assert same(sample(task).full(), pair)


def test_a_shuffling_loader_gives_the_same_task_every_time_and_keeps_the_random_state():
    kept = TensorDataset(torch.randn(10, 3), torch.randn(10, 2))
    loader = DataLoader(kept, batch_size=4, shuffle=True)
    state = torch.get_rng_state()
    first, second = (
        ModuleTask(lambda: nn.Linear(3, 2), nn.functional.mse_loss, loader) for _ in range(2)
    )
    assert same(torch.get_rng_state(), state)
    assert same(sample(first).full(), sample(second).full())
    assert row_set(first.inputs) == row_set(kept.tensors[0])


def test_data_too_large_to_hold_is_refused(monkeypatch):
    class Endless(IterableDataset):
        def __iter__(self):
            while True:
                yield torch.zeros(100), torch.zeros(1)

    monkeypatch.setattr(in_memory, "MAX_DATASET_BYTES", 10_000)
    with pytest.raises(ValueError, match="GiB.*Subset"):
        ModuleTask(lambda: nn.Linear(100, 1), nn.functional.mse_loss, DataLoader(Endless()))


def test_each_problem_draws_its_examples_and_validates_on_the_others():
    task = regression(examples=8)
    seen = []
    for seed in range(2):
        problem = sample(task, seed)
        full = row_set(problem.full()[0])
        drawn = [problem.draw(generator("batch", k))[0] for k in range(20)]
        unseen = [problem.draw_validation(generator("batch", k))[0] for k in range(20)]
        assert row_set(torch.cat(drawn)) == full and len(full) == 8
        assert row_set(torch.cat(unseen)) == row_set(task.inputs) - full
        seen.append(full)
    assert seen[0] != seen[1]


def test_validation_data_is_drawn_from():
    other = torch.full((5, 3), 7.0), torch.zeros(5, 2)
    problem = sample(regression(validation_data=other))
    x, y = problem.draw_validation(generator("batch"))
    assert x.shape == (4, 3) and y.shape == (4, 2)
    assert (x == 7).all()


@pytest.mark.parametrize("examples", [None, 9])
def test_full_is_a_fixed_sample_of_the_training_examples(examples):
    task = regression(full_rows=5, examples=examples)
    problem = sample(task)
    everything = row_set(sample(regression(examples=examples)).full()[0])
    assert same(problem.full(), problem.full())
    assert len(row_set(problem.full()[0])) == 5
    assert row_set(problem.full()[0]) < everything


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, left, right):
        return self.layer(left) * self.layer(right)


FORMS = {
    "tuple": lambda **inputs: (inputs["left"], inputs["right"]),
    "dict": lambda **inputs: dict(reversed(inputs.items())),
    "no dict": lambda **inputs: UserDict(inputs),  # as BatchEncoding of transformers
}


@pytest.mark.parametrize("form", FORMS)
def test_several_inputs_become_arguments_of_the_module(form):
    left, right, targets = torch.randn(6, 3), torch.randn(6, 3), torch.randn(6, 1)
    inputs = FORMS[form](left=left, right=right)
    task = ModuleTask(TwoInputs, nn.functional.mse_loss, (inputs, targets), 4)
    problem = sample(task)
    loss, _ = problem.loss(problem.parameters, {}, problem.full())
    with torch.no_grad():
        module = TwoInputs()
        module.load_state_dict(problem.parameters)
        torch.testing.assert_close(loss, nn.functional.mse_loss(module(left, right), targets))


def test_a_loader_of_mappings_is_read():
    inputs = torch.randn(6, 2, 3)
    rows = [(UserDict(left=left, right=right), torch.zeros(1)) for left, right in inputs]

    def collate(rows):
        keys = ("left", "right")
        stacked = UserDict({key: torch.stack([row[key] for row, _ in rows]) for key in keys})
        return stacked, torch.stack([target for _, target in rows])

    data = DataLoader(rows, batch_size=4, collate_fn=collate)
    full = sample(ModuleTask(TwoInputs, nn.functional.mse_loss, data, 4)).full()
    assert torch.equal(full[0]["left"], inputs[:, 0])
    assert torch.equal(full[0]["right"], inputs[:, 1])


def noisy_module():
    return nn.Sequential(nn.Linear(3, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 2))


def test_buffers_and_dropout_work_in_many_runs_at_once():
    data = torch.randn(40, 3), torch.randn(40, 2)
    task = ModuleTask(noisy_module, nn.functional.mse_loss, data, 20)
    problem = sample(task)  # the same problem three times: only dropout differs
    rule, batch = create_rule("adam"), problem.draw(generator("batch"))
    loop = InnerLoop(rule, problem.loss, vectorize=True)
    inner = start(rule, [problem] * 3, vectorize=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for step in range(1, 4):
            inner, losses = loop.step(inner, stack([batch] * 3))
            assert len(set(losses.tolist())) == 3
            assert inner.buffers["1.num_batches_tracked"].tolist() == [step] * 3
    assert inner.buffers["1.running_mean"].abs().min() > 0
    assert problem.buffers["1.running_mean"].abs().max() == 0


def test_a_module_in_evaluation_mode_stays_in_it():
    data = torch.randn(8, 3), torch.randn(8, 2)
    problem = sample(ModuleTask(lambda: noisy_module().eval(), nn.functional.mse_loss, data))
    losses = [problem.loss(problem.parameters, problem.buffers, problem.full()) for _ in range(2)]
    assert same(losses[0], losses[1])
    assert same(losses[0][1], problem.buffers)


@pytest.mark.parametrize("sizes", [(3, 4), (0, 0)])
def test_data_that_does_not_fit_together_is_refused(sizes):
    data = [torch.ones(size, 1) for size in sizes]
    with pytest.raises(ValueError, match=f"{sizes[0]} inputs, {sizes[1]} targets"):
        ModuleTask(lambda: nn.Linear(1, 1), nn.functional.mse_loss, data)


class Ragged(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return torch.zeros(index + 1), torch.zeros(1)


class Words(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return "a word", index


def broken(part):
    data = [torch.zeros(5, 3), torch.zeros(5, 2)]
    data[part][3, 1] = math.nan
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (broken(0), "inputs of data hold NaN or infinity in 1 of 5 rows, first in row 3"),
        (broken(1), "targets of data hold NaN or infinity in 1 of 5 rows, first in row 3"),
        (
            (torch.zeros(5, 4), torch.zeros(5, 2)),
            r"^Linear fails on a batch of data: inputs \[4, 4\] torch.float32: mat1 and mat2",
        ),
        (([1.0], [2.0]), "inputs of data must be tensors with a row per example, got float"),
        ((torch.zeros(5, 3),), r"data must be pairs \(inputs, targets\), got 1 items"),
        (torch.zeros(5, 3), "data must be pairs .* got Tensor"),
        (({"a": torch.zeros(4), "b": torch.zeros(5)}, torch.zeros(4)), r"in length: \[4, 5\]"),
        (Ragged(), "items of data do not fit together"),
        (Words(), "^items of data must hold tensors, arrays or numbers, got str$"),
        (TensorDataset(torch.zeros(5, 3)), "got 1 items"),
    ],
)
def test_wrong_data_is_named_in_one_line(data, message):
    with pytest.raises(ValueError, match=message) as caught:
        ModuleTask(lambda: nn.Linear(3, 2), nn.functional.mse_loss, data, 4)
    assert "\n" not in str(caught.value)


def test_finite_data_whose_sum_is_not_finite_is_taken():
    data = torch.full((50, 3), 1e307, dtype=torch.float64), torch.zeros(50, 2)
    task = ModuleTask(
        lambda: nn.Linear(3, 2).double(), lambda output, targets: output.mean() * 1e-307, data, 4
    )
    assert len(task.dataset) == 50


def test_wrong_validation_data_is_named():
    with pytest.raises(ValueError, match=r"batch of validation_data: inputs \[4, 5\]"):
        regression(validation_data=(torch.zeros(3, 5), torch.zeros(3, 2)))


def test_a_failing_loss_is_told_from_a_failing_module():
    def classify(targets):
        ModuleTask(
            lambda: nn.Linear(3, 2), nn.functional.cross_entropy, (torch.zeros(5, 3), targets)
        )

    message = r"^the loss fails on a batch of data: module output \[128, 2\] torch.float32, targets"
    with pytest.raises(ValueError, match=message):
        classify(torch.full((5,), 7))
    with pytest.raises(ValueError, match=r"targets \[128, 1\] torch.int64"):
        classify(torch.zeros(5, 1, dtype=torch.int64))


def test_a_loss_must_be_one_number():
    def per_row(output, target):
        return (output - target).square().mean(1)

    with pytest.raises(ValueError, match=r"0-dim tensor, on a batch of data it is \[4\]"):
        ModuleTask(lambda: nn.Linear(3, 2), per_row, (torch.zeros(5, 3), torch.zeros(5, 2)), 4)


def test_defaults():
    task = ModuleTask(
        lambda: nn.Linear(3, 2), nn.functional.mse_loss, (torch.zeros(5, 3), torch.zeros(5, 2))
    )
    assert (task.batch_size, task.examples, task.full_rows) == (128, None, None)


@pytest.mark.parametrize("wrong", [{"examples": 0}, {"examples": 13}, {"full_rows": 0}])
def test_sizes_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        regression(**wrong)


def test_frozen_parameters_do_not_change():
    def make():
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        net[0].requires_grad_(False)
        return net

    inputs = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    task = ModuleTask(make, nn.functional.mse_loss, (inputs, inputs[:, :2]), 4)
    problems = [sample(task, seed) for seed in range(2)]
    assert list(problems[0].fixed) == ["0.weight", "0.bias"]
    assert list(problems[0].parameters) == ["2.weight", "2.bias"]
    rule = create_rule("sgd")
    loop = InnerLoop(rule, task.loss, True, lr=0.1, differentiable=False)
    inner = start(rule, problems, vectorize=True)
    after, losses = loop.step(inner, stack([problem.draw(generator("b")) for problem in problems]))
    for k, problem in enumerate(problems):  # each has frozen ones of its own
        torch.testing.assert_close(after.fixed["0.weight"][k], problem.fixed["0.weight"])
        own = {**problem.fixed, **problem.parameters}
        torch.testing.assert_close(losses[k], task.loss(own, {}, problem.draw(generator("b")))[0])
    settings = TrainSettings(outer_steps=2, runs=2, horizons=(4,), truncation_length=2)
    MetaTrainer(create_rule("adam-lstm"), task, settings).train(progress=False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(3, 2).requires_grad_(False), "Linear has no parameter that requires"),
        (nn.Tanh, "Tanh has no parameter"),
        (lambda: nn.Sequential(nn.Embedding(9, 2, sparse=True)), "0 has sparse=True"),
        (lambda: torch.zeros(3), "make_module must return an nn.Module, got Tensor"),
        (lambda: nn.LazyLinear(2), "LazyLinear is lazy: the shape of weight is unknown"),
        (nn.Linear(3, 2), "make_module must be a function that returns a new module, got a Linear"),
    ],
)
def test_modules_that_cannot_be_trained_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        ModuleTask(make, nn.functional.mse_loss, (torch.zeros(4, 3), torch.zeros(4, 3)), 4)
