"""The comparison: same problems and batches for all, baselines at their best, honest figures."""

import math
from dataclasses import replace

import pytest
import torch

from learned_opt import LearnedOptimizer, create_rule
from meta_train.evaluation.baselines import BASELINES, Baseline, learning_rate_grid
from meta_train.evaluation.comparison.compare import compare
from meta_train.evaluation.comparison.report import as_json, draw_curves, render_table
from meta_train.evaluation.comparison.trainings import ComparisonTask
from meta_train.evaluation.curves import Curves, train_curves
from meta_train.runtime.seeding import derive_seed, generator
from meta_train.tasks import ModuleTask, create_task

CPU = torch.device("cpu")


def train_by_hand(task, seed, steps, optimizer_class, **options):
    """The same problem in an ordinary loop with an ordinary optimizer."""
    problem = task.sample(generator("evaluate", seed), CPU)
    batches = generator("evaluate", seed, "batches")
    parameters = {k: v.clone().requires_grad_() for k, v in problem.parameters.items()}
    optimizer = optimizer_class(parameters.values(), **options)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss, _ = problem.loss(parameters, problem.buffers, problem.draw(batches))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    final, _ = problem.loss(parameters, problem.buffers, problem.full())
    return losses, final.item()


@pytest.mark.parametrize(
    ("name", "reference", "options"),
    [
        ("adam", torch.optim.Adam, {}),
        ("rmsprop", torch.optim.RMSprop, {}),
        ("momentum", torch.optim.SGD, {"momentum": 0.9}),
    ],
)
def test_baselines_train_as_torch_optim_does(name, reference, options):
    task = create_task("digits-mlp", split="test", batch_size=32)
    rates = [0.01, 0.05]
    curves = train_curves(create_rule(name), task, seeds=[3, 4], steps=12, learning_rates=rates)
    for k, rate in enumerate([0.01, 0.05]):
        for j, seed in enumerate([3, 4]):
            losses, final = train_by_hand(task, seed, 12, reference, lr=rate, **options)
            torch.testing.assert_close(
                curves.losses[k, j], torch.tensor(losses), atol=1e-5, rtol=1e-4
            )
            assert curves.final_losses(12)[k, j].item() == pytest.approx(final, rel=1e-4)


def test_the_learned_rule_is_judged_as_a_user_would_run_it():
    torch.manual_seed(0)
    rule = create_rule("adam-lstm")
    task = create_task("digits-mlp", split="test", batch_size=32)
    curves = train_curves(rule, task, seeds=[5], steps=12)
    losses, final = train_by_hand(task, 5, 12, LearnedOptimizer, rule=rule)
    torch.testing.assert_close(curves.losses[0, 0], torch.tensor(losses), atol=1e-5, rtol=1e-4)
    assert curves.final_losses(12).item() == pytest.approx(final, rel=1e-4)


@pytest.mark.parametrize(
    ("schedule", "factor"),
    [
        ("constant", lambda step: 1.0),
        ("inverse", lambda step: 1 / (1 + step / 100)),
        ("cosine", lambda step: 0.5 + 0.5 * math.cos(math.pi * step / 6)),  # 3% of 6 is no step
    ],
)
def test_a_baseline_follows_its_schedule_and_decays_weights(schedule, factor):
    task = create_task("quadratic", dimensions=3)
    curves = train_curves(
        create_rule("sgd"),
        task,
        seeds=[1],
        steps=6,
        learning_rates=[0.01],
        schedule=schedule,
        weight_decay=0.1,
    )
    problem = task.sample(generator("evaluate", 1), CPU)
    w, y = problem.full()
    theta = problem.parameters["theta"].clone().requires_grad_()
    for step in range(1, 7):
        loss = (w @ theta - y).square().sum()
        assert curves.losses[0, 0, step - 1].item() == pytest.approx(loss.item(), rel=1e-4)
        (gradient,) = torch.autograd.grad(loss, theta)
        rate = 0.01 * factor(step)
        theta = (theta - rate * (gradient + 0.1 * theta)).detach().requires_grad_()


def test_a_schedule_ends_at_the_compared_steps_however_long_a_baseline_may_go_on():
    task = create_task("quadratic", dimensions=3)
    baseline = Baseline("SGD, cosine", "sgd", (0.01, 0.02), schedule="cosine")
    short, long = (
        compare(
            create_rule("adam"),
            [ComparisonTask("family", "family", task, steps=20, patience=patience)],
            seeds=range(2),
            baselines=[baseline],
        )["family"][1]
        for patience in (0, 60)
    )
    assert long.final_loss == short.final_loss
    assert long.mean_loss == short.mean_loss
    rates = {"seeds": [0], "learning_rates": [0.01], "schedule": "cosine"}
    curves = train_curves(create_rule("sgd"), task, steps=30, planned_steps=20, **rates)
    assert curves.final_losses(30).item() == curves.final_losses(20).item()  # its rate is zero


def test_dropout_draws_the_same_numbers_whatever_was_drawn_before():
    random = torch.Generator().manual_seed(0)
    data = torch.rand(40, 3, generator=random), torch.rand(40, 1, generator=random)
    task = ModuleTask(
        lambda: torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(3, 1)),
        torch.nn.functional.mse_loss,
        data,
        batch_size=8,
    )
    column = ComparisonTask("own", "own", task, steps=10, patience=0)
    same = Baseline("SGD", "sgd", (create_rule("sgd").default_lr,))
    before = torch.get_rng_state()
    rows = compare(create_rule("sgd"), [column], seeds=range(2), baselines=[same])["own"]
    assert torch.equal(torch.get_rng_state(), before)
    assert rows[0].final_loss == rows[1].final_loss
    torch.testing.assert_close(rows[0].curve, rows[1].curve, rtol=0, atol=0)


def test_diverged_baselines_lose_and_are_counted():
    task = create_task("quadratic", dimensions=3)
    column = ComparisonTask("family", "family", task, steps=30, patience=0)
    baseline = Baseline("SGD", "sgd", (0.01, 1e3))
    rows = compare(create_rule("sgd"), [column], seeds=range(3), baselines=[baseline])["family"]
    assert rows[1].mean_loss_lr == 0.01
    assert rows[1].diverged == 0
    assert math.isfinite(rows[1].mean_loss[0])
    only_bad = Baseline("SGD", "sgd", (1e3,))
    rows = compare(create_rule("sgd"), [column], seeds=range(3), baselines=[only_bad])["family"]
    assert rows[1].diverged == 3
    assert "diverged" in render_table({"family": rows}, [column])


def test_best_rate_at_an_edge_of_the_grid_is_marked():
    task = create_task("quadratic", dimensions=3)
    column = ComparisonTask("family", "family", task, steps=20, patience=0)
    narrow = Baseline("SGD", "sgd", (1e-6, 1e-5, 1e-4))
    rows = compare(create_rule("sgd"), [column], seeds=range(3), baselines=[narrow])["family"]
    assert rows[1].at_edge
    assert "*" in render_table({"family": rows}, [column])


def test_steps_to_reach_takes_the_fastest_rate():
    full = torch.tensor([[[3.0, 2.0, 1.0]], [[3.0, 1.0, 2.0]]])
    curves = Curves(torch.zeros(2, 1, 15), torch.tensor([5, 10, 15]), full)
    assert curves.steps_to_reach(1.5) == 10
    assert curves.steps_to_reach(1.0) == 10
    assert curves.steps_to_reach(0.5) == math.inf


def test_steps_to_reach_is_of_the_mean_over_seeds():
    full = torch.tensor([[[3.0, 2.0, 1.0], [1.0, 0.5, 0.0]]])  # mean 2, 1.25, 0.5
    curves = Curves(torch.zeros(1, 2, 15), torch.tensor([5, 10, 15]), full)
    assert curves.steps_to_reach(1.3) == 10  # one seed is there after 5 steps, both after 15
    assert curves.steps_to_reach(0.5) == 15


def test_every_baseline_is_tuned_over_at_least_seven_rates():
    assert {"Adam", "RMSprop", "SGD + momentum"} <= {b.label for b in BASELINES}
    assert all(len(b.learning_rates) >= 7 for b in BASELINES)
    assert learning_rate_grid(0.01, 1.0, per_decade=2) == pytest.approx(
        (0.01, 0.0316, 0.1, 0.316, 1.0), rel=1e-2
    )


def test_held_out_images_are_not_those_of_meta_training():
    train, test = create_task("digits-mlp"), create_task("digits-mlp", split="test")
    rows = {tuple(image) for image in train.inputs.tolist()}
    assert not any(tuple(image) in rows for image in test.inputs.tolist())
    assert [len(t.inputs) for t in (train, train.validation(), test)] == [1000, 400, 397]


def test_report_fits_80_columns_and_becomes_json_and_png(tmp_path):
    task = create_task("quadratic", dimensions=3)
    columns = [ComparisonTask(str(k), f"title {k}", task, steps=10, patience=20) for k in range(2)]
    table = compare(create_rule("adam"), columns, seeds=range(2))
    text = render_table(table, columns)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("SGD + momentum") >= 2
    data = as_json(table, columns)
    assert data["0"]["rows"][0]["optimizer"] == "learned"
    assert data["0"]["rows"][1]["mean_loss"] == pytest.approx(table["0"][1].mean_loss[0])
    draw_curves(tmp_path / "curves.png", table, columns)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_seeds_depend_on_the_whole_path():
    paths = [(0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1), ("0", "a", 1)]
    assert len({derive_seed(*path) for path in paths}) == len(paths)
    assert derive_seed(0, "a") == derive_seed(0, "a")


def test_a_task_of_lambdas_needs_one_worker():
    data = torch.rand(20, 2), torch.rand(20, 1)
    task = ModuleTask(lambda: torch.nn.Linear(2, 1), torch.nn.functional.mse_loss, data, 8)
    column = ComparisonTask("mine", "mine", task, 3, 3)
    baseline = Baseline("SGD", "sgd", learning_rates=(0.1,))
    learned, tuned = compare(create_rule("sgd"), [column], seeds=[0], baselines=[baseline])["mine"]
    assert learned.final_loss[0] > tuned.final_loss[0] > 0  # lr 0.01 and 0.1
    with pytest.raises(ValueError, match=r"task 'mine' cannot be sent .* take workers=1"):
        compare(create_rule("sgd"), [column], seeds=[0], baselines=[baseline], workers=2)


def test_a_baseline_that_ends_at_zero_has_a_ratio(tmp_path):
    task = create_task("quadratic", dimensions=3)
    columns = [ComparisonTask("0", "title", task, steps=3, patience=3)]
    table = compare(create_rule("adam"), columns, seeds=range(1))
    rows = [replace(row, final_loss=(0.0, 0.0), mean_loss=(0.0, 0.0)) for row in table["0"]]
    assert "< 2e-07" in render_table({"0": rows}, columns)
