"""Meta-gradients in float64 against hand-written loops and finite differences."""

import pytest
import torch

from meta_train.few_shot.settings import FewShotConfig
from meta_train.few_shot.training import make_trainer
from meta_train.tasks.episodes.stored_heads import STORED

CPU = torch.device("cpu")
RUNS = 3


def make(name, **row_settings):
    config = FewShotConfig(
        row=name,
        shots=4,
        queries=3,
        row_settings=row_settings,
        task_settings={"hidden": [3]},
        train={"runs": RUNS, "dtype": "float64", "grad_clip_norm": 1e9},
    )
    trainer = make_trainer(name, config, CPU, None)
    with torch.no_grad():
        # Larger weights than 0.01, where the network is nearly linear.
        for value in trainer.meta_parameters.parameters():
            value.add_(0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    return trainer


def by_hand(name, trainer, problems, initial, rule, *, steps, lr):
    """The mean query loss after steps of gradient descent, written out."""
    total = 0.0
    for problem in problems:
        start = {**problem.fixed, **problem.parameters}
        values = {
            key: initial[key] if key in initial else value.double().clone().requires_grad_()
            for key, value in start.items()
        }
        support, query = (
            tuple(part.double() if part.is_floating_point() else part for part in batch)
            for batch in (problem.full(), problem.draw_validation(None))
        )
        moving = list(problem.parameters)
        for step in range(steps):
            loss, _ = problem.loss(values, {}, support)
            gradients = torch.autograd.grad(
                loss, [values[k] for k in moving], create_graph=True, retain_graph=True
            )
            if name == "fomaml":
                gradients = [gradient.detach() for gradient in gradients]
            moved = dict(values)
            for k, (key, gradient) in enumerate(zip(moving, gradients, strict=True)):
                if name == "meta-sgd":
                    rate = rule[f"rates.{k}"]
                elif name == "layer-step-rates":
                    rate = rule["rates"][k, step]
                else:
                    rate = lr
                moved[key] = values[key] - rate * gradient
            values = moved
        total = total + problem.loss(values, {}, query)[0]
    return total / len(problems)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("maml", {"train_steps": 3, "inner_lr": 0.1}),
        ("maml", {"train_steps": 0}),
        ("fomaml", {"train_steps": 3, "inner_lr": 0.1}),
        ("maml-fresh-head", {"train_steps": 2, "inner_lr": 0.1}),
        ("maml-stored-heads", {"train_steps": 2, "inner_lr": 0.1, "stored_heads": 4}),
        ("maml-negative-rate", {"train_steps": 2, "inner_lr": -0.1}),
        ("anil", {"train_steps": 3, "inner_lr": 0.1}),
        ("meta-sgd", {"train_steps": 2}),
        ("layer-step-rates", {"train_steps": 2}),
    ],
)
def test_methods_have_the_derivative_of_the_loop_by_hand(name, settings):
    trainer = make(name, **settings)
    rule = {k: v.detach().clone().requires_grad_() for k, v in trainer.rule.named_parameters()}
    initial = {
        k: v.detach().clone().requires_grad_()
        for k, v in trainer.meta_parameters.initialization().items()
    }
    reduced = trainer.take_outer_step().estimate
    problems = trainer.groups.runs[0].problems
    how = {"steps": settings["train_steps"], "lr": settings.get("inner_lr")}
    value = by_hand(name, trainer, problems, initial, rule, **how)
    torch.testing.assert_close(reduced.meta_loss, value.item(), check_dtype=False)
    leaves = [*rule.values(), *initial.values()]
    expected = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    assert any(gradient.abs().sum() > 0 for gradient in expected)
    for gradient, other in zip(reduced.gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-12)
    if name == "fomaml":  # is not the derivative of its loss
        return
    for leaf, gradient in zip(leaves, expected, strict=True):
        direction = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(2)).double()
        moved = []
        for sign in (1, -1):
            shifted = [
                (one + sign * 1e-6 * direction).detach().requires_grad_() if one is leaf else one
                for one in leaves
            ]
            rules = dict(zip(rule, shifted, strict=False))
            initial_values = dict(zip(initial, shifted[len(rule) :], strict=True))
            moved.append(by_hand(name, trainer, problems, initial_values, rules, **how).item())
        slope = (moved[0] - moved[1]) / 2e-6
        assert slope == pytest.approx((gradient * direction).sum().item(), rel=1e-5, abs=1e-8)


def test_stored_heads_are_learned():
    names = set(make("maml-stored-heads", stored_heads=2).meta_parameters.names)
    assert {f"{STORED}head.weight", f"{STORED}head.bias", "body.0.weight"} <= names
    assert not any(name.startswith("head.") for name in names)
