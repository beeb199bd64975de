"""Gates by layer over the inner steps of episodes."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from few_shot_cases import SMALL_SINE, TINY

from learned_opt import create_rule
from learned_opt.rules import Context
from meta_train.few_shot.gate_curves import draw_gate_bands, gate_bands
from meta_train.jobs.cli import main
from meta_train.runtime.seeding import generator
from meta_train.tasks.episodes.sine import Sine

EXAMPLE = Path(__file__).parents[2] / "examples" / "few_shot_gates.py"
TASK = Sine(shots=3, queries=3, hidden=(4,))
NAMES = ["body.0.weight", "body.0.bias", "head.weight", "head.bias"]


def rule():
    torch.manual_seed(0)
    return create_rule("gated-lstm", hidden_size=0)


def test_every_layer_and_step_has_a_band():
    bands = gate_bands(rule(), {}, TASK, steps=5, episodes=3)
    assert list(bands) == ["forget", "input"]
    for gate, (low, high) in {"forget": (0.98, 1.0), "input": (0.0, 0.02)}.items():
        assert list(bands[gate]) == NAMES
        for band in bands[gate].values():
            assert band.shape == (5, 3)
            mean, lower, upper = band.T
            assert (low <= lower).all() and (lower <= upper).all() and (upper <= high).all()
            assert (mean >= lower - 1e-4).all() and (mean <= upper + 1e-4).all()


def test_the_gates_are_those_of_the_first_step():
    own = rule()
    bands = gate_bands(own, {}, TASK, steps=1, episodes=1)
    episode = TASK.sample(generator("gates", "0 0"), own.device)
    batch = episode.draw(generator("gates", "0 0", "batches"))
    leaves = {key: value.requires_grad_() for key, value in episode.parameters.items()}
    loss, _ = TASK.loss(leaves, episode.buffers, batch)
    bias = leaves["head.bias"]
    (gradient,) = torch.autograd.grad(loss, [bias])
    state, context = own.init_state(bias.detach()), Context(loss=loss.detach())
    gates = own.gates(gradient, bias.detach(), state, context)
    for gate in ("forget", "input"):
        expected = [gates[gate].item()] * 3  # one coordinate: mean and quantiles agree
        assert bands[gate]["head.bias"][0] == pytest.approx(expected, rel=1e-5)


def test_the_rule_takes_its_steps_between_the_bands():
    """The gates read their own last values, so each step has other ones."""
    bands = gate_bands(rule(), {}, TASK, steps=3, episodes=2)
    first, second, third = bands["input"]["head.weight"][:, 0]
    assert len({first, second, third}) == 3


def test_the_figure_has_a_column_for_each_run_and_shows_the_distance_from_one():
    one, five = (np.full((4, 3), value) for value in (0.999, 0.99))
    columns = {
        "1 shot": {"forget": {"w": one}, "input": {"w": 1 - one}},
        "5 shots": {"forget": {"w": five}, "input": {"w": 1 - five}},
    }
    figure = draw_gate_bands(columns)
    axes = figure.axes
    assert [axis.get_title() for axis in axes[:2]] == ["1 shot", "5 shots"]
    assert [axis.get_ylabel() for axis in axes[::2]] == ["1 - forget gate", "input gate"]
    lines = [axis.get_lines()[0].get_ydata() for axis in axes]
    for line, value in zip(lines, (0.001, 0.01, 0.001, 0.01), strict=True):
        assert line == pytest.approx([value] * 4)


def test_a_rule_without_gates_has_none_to_draw():
    bands = gate_bands(create_rule("sgd"), {}, TASK, steps=2, episodes=1, lr=0.01)
    assert bands == {}
    with pytest.raises(ValueError, match="there are no gates to draw"):
        draw_gate_bands({"1 shot": bands})
    with pytest.raises(ValueError, match=r"the rule has gates \[\], not \['reset'\]"):
        draw_gate_bands({"1 shot": bands}, ["reset"])


def test_an_initialisation_in_double_precision_takes_its_steps_in_it():
    own = rule().double()
    start = {"head.bias": torch.full((1,), 0.5, dtype=torch.float64)}
    bands = gate_bands(own, start, TASK, steps=2, episodes=1)
    assert bands["input"]["head.bias"].shape == (2, 3)


def test_the_example_draws_a_run_of_any_network_at_other_numbers_of_shots(
    tmp_path, monkeypatch, capsys
):
    run, out = tmp_path / "run", tmp_path / "gates.png"
    assert (
        main([*TINY, "--row", "meta-lstm", "--data", "sine", *SMALL_SINE, "--out", str(run)]) == 0
    )
    given = [str(run / "initialization.safetensors"), "--shots", "5", "10", "--episodes", "2"]
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *given, "--out", str(out)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert out.read_bytes().startswith(b"\x89PNG")
    assert f"figure: {out}" in capsys.readouterr().out
