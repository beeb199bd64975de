"""Meta-training by es and pes whose rule steps in C: same weights, resumed bitwise, recorded."""

import pytest
import torch
from conftest import same
from torch.nn.utils import parameters_to_vector

from learned_opt import create_rule
from learned_opt.c_library import load_library
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.tasks import Mixture, Quadratic, create_task

pytestmark = pytest.mark.skipif(load_library() is None, reason="the C library was not compiled")

FAMILY = Mixture({"small": Quadratic(dimensions=3), "large": Quadratic(dimensions=6)})


def make_trainer(folder=None, family=FAMILY, rule="step-size-lstm", **changes):
    settings = {
        "estimator": "es",
        "estimator_settings": {"sigma": 0.05, "clip": 2.0},
        "outer_steps": 6,
        "runs": 3,
        "horizons": (4,),
        "truncation_length": 4,
        "hide_loss": 0.25,
        "checkpoint_every": 3,
        **changes,
    }
    torch.manual_seed(0)
    return MetaTrainer(
        create_rule(rule), family, TrainSettings(**settings), folder=folder, device="cpu"
    )


def weights_after(trainer, outer_steps):
    begin = parameters_to_vector(trainer.rule.parameters()).detach().clone()
    for _ in range(outer_steps):
        trainer.take_outer_step()
    end = parameters_to_vector(trainer.rule.parameters()).detach()
    return end, float((end - begin).abs().max())


@pytest.mark.parametrize("estimator", ["es", "pes"])
@pytest.mark.parametrize("base", [None, 2.0])
def test_the_weights_are_those_of_vmap(estimator, base):
    # Without a clip, whose unit is the difference itself, which may be rounding.
    given = {"sigma": 0.05, "base_loss_weight": base}
    options = {"estimator": estimator, "estimator_settings": given, "lr": 0.05}
    fused, moved = weights_after(make_trainer(**options, horizons=(12,)), 6)
    plain, _ = weights_after(make_trainer(**options, horizons=(12,), fused_rule=False), 6)
    assert moved > 0.01
    torch.testing.assert_close(fused, plain, rtol=0, atol=1e-4)
    assert not torch.equal(fused, plain)  # or C would not have been used


def difference_after_20_outer_steps(horizon, **settings):
    """Of the weights in C from those under vmap, trained on random perceptrons."""
    family = create_task("random-mlp", data=["digits"], **settings)
    options = {"family": family, "runs": 8, "outer_steps": 20, "lr": 0.01}
    options |= {"horizons": (horizon,), "truncation_length": horizon, "grad_clip_norm": 100.0}
    options |= {"objective": "log-tail", "param_rescale_range": 0.5}
    fused, moved = weights_after(make_trainer(**options), 20)
    plain, _ = weights_after(make_trainer(**options, fused_rule=False), 20)
    assert moved > 0.01
    return float((fused - plain).abs().max())


@pytest.mark.parametrize("horizon", [10, 20])
def test_20_outer_steps_on_smooth_perceptrons_train_the_same_weights_to_1e_6(horizon):
    # Six seeds with AVX-512, and three at each other level, came to 6e-8 to 4e-7; so did 50 and 100
    # steps with AVX-512.
    assert difference_after_20_outer_steps(horizon, activations=("tanh", "gelu")) < 1e-6


def test_20_outer_steps_on_perceptrons_train_the_same_weights():
    # Two things keep these from 1e-6, both of float32 and not of C.
    # - In fewer than 10 steps the two runs of a pair hardly part. Their losses differ by little
    #   beside rounding, and meta-Adam divides by that little: 2e-7 to 2e-6 over seeds and levels.
    # - A ReLU whose input is rounding itself may open in one way and stay shut in the other. That
    #   moves the gradient of one unit by percents and the weights by 2e-4. One of four seeds met it
    #   in 20 outer steps of 20 inner ones; longer runs meet more. Here it does not happen.
    assert difference_after_20_outer_steps(5) < 1e-5


@pytest.mark.parametrize("estimator", ["es", "pes"])
def test_a_run_resumes_bitwise_and_only_as_it_began(tmp_path, estimator):
    options = {"estimator": estimator, "horizons": (10,)}
    whole = make_trainer(tmp_path / "whole", **options)
    broken = make_trainer(tmp_path / "broken", **options)
    for _ in range(3):
        broken.take_outer_step()
    broken.save()
    again = make_trainer(tmp_path / "broken", **options)
    assert again.resume()
    for trainer in (whole, again):
        trainer.train(progress=False)
    assert same(again.state_dict().tensors, whole.state_dict().tensors)
    with pytest.raises(ValueError, match="fused_rule=True, not None"):
        make_trainer(tmp_path / "whole", **options, fused_rule=False).resume()


def test_a_run_without_c_resumes_without_it_alone(tmp_path):
    trainer = make_trainer(tmp_path, fused_rule=False)
    trainer.take_outer_step()
    trainer.save()
    assert make_trainer(tmp_path, fused_rule=False).resume()
    with pytest.raises(ValueError, match="fused_rule=None, not True"):
        make_trainer(tmp_path).resume()


@pytest.mark.parametrize(
    ("changes", "fused"),
    [
        ({}, True),
        ({"estimator": "pes"}, True),
        ({"fused_rule": False}, False),
        ({"dtype": "float64"}, False),
        ({"rule": "adam-lstm"}, False),
        ({"estimator": "full", "estimator_settings": {}}, False),
    ],
    ids=str,
)
def test_settings_say_what_is_done(changes, fused):
    trainer = make_trainer(**changes)
    assert trainer.settings.fused_rule is fused
    assert (trainer.loop_settings.in_c is not None) is fused


def test_without_the_library_the_rule_goes_on_under_vmap(monkeypatch):
    reason = "there is no library"
    monkeypatch.setattr("meta_train.inner.step.rule_in_c.missing_library", lambda: reason)
    trainer = make_trainer()
    assert trainer.settings.fused_rule is False
    trainer.take_outer_step()


@pytest.mark.parametrize("estimator", ["es", "pes"])
def test_nothing_is_written_that_a_task_owns(estimator):
    trainer = make_trainer(estimator=estimator, family=Quadratic(dimensions=5))
    runs = trainer.groups.runs[0]
    trainer.take_outer_step()
    for problem, origin in zip(runs.problems, runs.clocks.origins, strict=True):
        assert same(problem.parameters, runs.source.problem(*origin).parameters)


def test_diverged_runs_stand_still_and_the_others_go_on():
    fused = make_trainer(inner_lr=30.0, horizons=(20,), family=Quadratic(dimensions=4))
    plain = make_trainer(
        inner_lr=30.0, horizons=(20,), family=Quadratic(dimensions=4), fused_rule=False
    )
    records = [trainer.take_outer_step() for trainer in (fused, plain)]
    assert records[0].diverged == records[1].diverged
    assert 0 < records[0].diverged
