"""A compiled rule takes the steps of vmap, whatever came first, or says that it does not."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from conftest import same
from torch import nn
from torch.func import vmap

from learned_opt.rules.base import UpdateRule
from meta_train.inner.step.compiled_rule import CompiledRule, why_not_compiled
from meta_train.inner.step.rule_step import StepInput, rule_steps
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.tasks import Mixture, Quadratic

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


class Scaled(UpdateRule):
    """Momentum over its norm in the tensor, times a learned factor; larger tensors move less."""

    default_lr = 0.1

    def __init__(self, largest=1000):
        super().__init__(largest=largest)
        self.largest = largest
        self.factor = nn.Parameter(torch.ones(()))

    def init_tensor_state(self, parameter):
        return {"m": torch.zeros_like(parameter)}

    def update(self, gradients, parameters, states, context):
        deltas, after = [], []
        for gradient, state in zip(gradients, states, strict=True):
            m = 0.9 * state["m"] + gradient
            scale = self.factor if gradient.numel() <= self.largest else 0.5 * self.factor
            if context.loss is not None:
                scale = scale * torch.tanh(context.loss)
            deltas.append(-scale * m / (m.norm() + 1e-8) / state["step"])
            after.append({"step": state["step"], "m": m})
        return deltas, after


def arguments(rule, *shapes, runs=4, loss=True, seed=0):
    torch.manual_seed(seed)
    parameters = [torch.randn(runs, *shape) for shape in shapes]
    gradients = [torch.randn(runs, *shape) for shape in shapes]
    states = [vmap(rule.init_state)(value) for value in parameters]
    weights = {"factor": torch.rand(runs)}
    losses = torch.rand(runs) if loss else None
    total = torch.full((runs,), 9.0)
    return StepInput(0.01, gradients, parameters, states, losses, 0.1, total, weights)


def check(rule, compiled, given):
    torch.testing.assert_close(compiled(given), rule_steps(rule, given))


@pytest.mark.slow
def test_one_graph_for_each_number_of_tensors_and_none_per_shape():
    rule = Scaled()
    compiled = CompiledRule(rule)
    for sizes in ((3, 2), (7, 5), (4, 4), (30, 20)):
        check(rule, compiled, arguments(rule, sizes))
    assert compiled.graphs == 1
    check(rule, compiled, arguments(rule, (3, 2), (5,)))
    assert compiled.graphs == 2
    check(rule, compiled, arguments(rule, (3, 2), loss=False))  # hidden in some outer steps
    check(rule, compiled, arguments(rule, (1, 2)))
    assert compiled.graphs == 4


@pytest.mark.parametrize("verbose", [False, True])
def test_any_layout_in_memory_is_taken(capsys, verbose):
    rule = Scaled()
    compiled = CompiledRule(rule, verbose=verbose)
    given = arguments(rule, (6, 5))
    turned = [value.transpose(1, 2).contiguous().transpose(1, 2) for value in given.gradients]
    assert same(compiled(replace(given, gradients=turned)), compiled(given))
    assert compiled.graphs == 1
    said = "compiling the step of Scaled for 1 tensor: this can take a minute\n"
    assert capsys.readouterr().out == (said if verbose else "")


def test_the_numbers_do_not_depend_on_what_came_first():
    rule = Scaled()
    small, large = arguments(rule, (3, 2)), arguments(rule, (40, 20))
    one, other = CompiledRule(rule), CompiledRule(rule)
    first = one(small), one(large)
    second = other(large), other(small)
    assert same(first, second[::-1])


def test_shapes_that_the_rule_branches_on_run_uncompiled():
    rule = Scaled(largest=800)
    compiled = CompiledRule(rule)
    for shape in ((30, 30), (3, 2), (30, 30)):
        given = arguments(rule, shape)
        check(rule, compiled, given)
        if shape == (30, 30):
            assert same(compiled(given), rule_steps(rule, given))
    assert compiled.graphs == 1


def test_a_rule_that_cannot_be_compiled_warns_once_and_runs():
    class Closed(Scaled):
        @torch._dynamo.disable
        def update(self, *given):
            return super().update(*given)

    rule = Closed()
    compiled = CompiledRule(rule)
    with pytest.warns(RuntimeWarning, match="the step of Closed is not compiled"):
        check(rule, compiled, arguments(rule, (3, 2)))
    check(rule, compiled, arguments(rule, (5, 2), (3,)))
    assert compiled.graphs == 0


FAMILY = Mixture({"small": Quadratic(dimensions=3), "large": Quadratic(dimensions=6)})


def make_trainer(folder, compile_rule=True):
    settings = TrainSettings(
        outer_steps=6,
        estimator="es",
        runs=3,
        horizons=(4,),
        compile_rule=compile_rule,
        checkpoint_every=3,
    )
    return MetaTrainer(Scaled(), FAMILY, settings, folder=folder, device="cpu")


def test_a_compiled_meta_training_resumes_bitwise(tmp_path):
    whole, broken = make_trainer(tmp_path / "whole"), make_trainer(tmp_path / "broken")
    vmapped = make_trainer(None, compile_rule=False)
    for _ in range(3):
        broken.take_outer_step()
    broken.save()
    again = make_trainer(tmp_path / "broken")
    assert again.resume()
    for trainer in (whole, again, vmapped):
        trainer.train(progress=False)
    assert whole.loop_settings.compiled.graphs > 0
    assert same(again.state_dict().tensors, whole.state_dict().tensors)
    for one, other in zip(whole.rule.parameters(), vmapped.rule.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(ValueError, match="compile_rule=True, not False"):
        make_trainer(tmp_path / "whole", compile_rule=False).resume()


WITHOUT_COMPILER = """
import test_compiled_rule
trainer = test_compiled_rule.make_trainer(None)
print(trainer.settings.compile_rule, trainer.loop_settings.compiled)
trainer.train(progress=False)
print(trainer.outer_step)
"""


@pytest.mark.slow
def test_without_a_compiler_it_is_said_and_recorded(tmp_path):
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER],
        env={
            **os.environ,
            "CXX": str(tmp_path / "no-compiler"),
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    said, settings, steps = found.stdout.strip().splitlines()
    assert said.startswith("the rule is not compiled: ")
    assert (settings, steps) == ("False None", "6")


def test_with_a_compiler_nothing_is_in_the_way():
    assert why_not_compiled() is None
