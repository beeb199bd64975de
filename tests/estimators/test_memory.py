"""What a step allocates, as the allocator sees it, and the tables of step_cost.py."""

import importlib
from pathlib import Path

import pytest
import torch
from conftest import COORDINATE_RULES, make_optimizer, make_rule, step_with

from learned_opt import create_rule, list_rules
from learned_opt.rules.parts import lstm_cell

# torch 2.11 warns whenever a profiler starts.
pytestmark = pytest.mark.filterwarnings("ignore:Warning. Profiler clears events:UserWarning")

SMALL = {
    "lstm": {"hidden_sizes": (4, 4)},
    "gated-lstm": {"hidden_size": 4},
    "momentum-gated-lstm": {"hidden_size": 4},
    "adam-lstm": {"hidden_size": 4},
}


@pytest.fixture(scope="module")
def step_cost():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks" / "speed")
        yield importlib.import_module("step_cost")


@pytest.mark.parametrize("rule_name", COORDINATE_RULES)
def test_the_peak_of_a_step_follows_the_chunk_and_not_the_parameter(
    rule_name, step_cost, monkeypatch
):
    def peak(size, chunk_size):
        # In float64, which the cells in C do not take: those need less.
        rule = make_rule(rule_name, **SMALL.get(rule_name, {})).double().requires_grad_(False)
        start = torch.ones(size, dtype=torch.float64)
        optimizer, _ = make_optimizer(rule, start, chunk_size=chunk_size, fused=False)
        optimizer.init_state()
        gradient = torch.ones_like(start)
        return step_cost.peak_bytes(lambda: step_with(optimizer, gradient))

    small = peak(250_000, 4096)
    assert small > 4096 * 8
    assert peak(500_000, 4096) <= 1.02 * small
    by_blocks = peak(250_000, 65536)
    # Where an LSTM takes the rows of a chunk at once, memory is in proportion; in blocks, less.
    monkeypatch.setattr(lstm_cell, "BLOCK", 65536)
    at_once = peak(250_000, 65536)
    assert at_once == pytest.approx(16 * small, rel=0.1)
    assert by_blocks < 0.8 * at_once if "lstm" in rule_name else by_blocks == at_once


def test_the_benchmark_measures_every_rule_beside_adamw(rule_name, step_cost):
    for code in step_cost.codes(create_rule(rule_name)):
        for many in (True, False):
            measured = step_cost.measure(rule_name, 2000, 1, many, code)
            milliseconds, hot, cold, peak, other = measured
            assert min(milliseconds, hot, cold) > 0
            assert other >= 0
            assert peak > other or code != step_cost.OWN


def test_the_benchmarks_table_has_a_line_for_each_rule_and_code(step_cost):
    rows = [
        {"rule": "sgd", "code": code, "size": size, "many": many}
        | {"hot": 10 * size, "cold": 2.0, "mib": size / 50 + many, "cpu": "X", "load": size / 20}
        for code in ("C", "own")
        for size in (10, 100)
        for many in (False, True)
    ]
    found = {"sizes": [10, 100], "threads": 1, "cores": 2, "rows": rows}
    *lines, _, state = step_cost.table(found).splitlines()
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert shown[0] == ["rule", "code", "1e1 in one", "1e2 in one", "1e1", "1e2", "MiB"]
    costs = ["100 / 2", "1e+03 / 2"] * 2
    assert shown[2:] == [["`sgd`", code, *costs, "2.0 / 3.0"] for code in ("C", "own")]
    assert state == "CPU: X. Threads: 1. Load of its 2 cores: 0.5 to 5.0."


@pytest.mark.parametrize("size", [10**5, 10**6])
def test_the_benchmarks_models_have_the_size_that_they_claim(size, step_cost):
    parameters = step_cost.make_parameters(size)
    assert sum(p.numel() for p in parameters) == pytest.approx(size, rel=0.05)


def test_the_table_of_state_sizes_is_what_the_rules_really_keep(step_cost, capsys):
    step_cost.print_state()
    _, _, *rows = capsys.readouterr().out.splitlines()
    shown = {}
    for row in rows:
        name, size = (cell.strip() for cell in row.strip("|").split("|"))
        shown[name] = int(size)
    for name in list_rules():
        optimizer, (parameter,) = make_optimizer(create_rule(name), torch.ones(3, 4))
        step_with(optimizer, torch.ones(3, 4))
        kept = [value for value in optimizer.state[parameter].values() if value.dim() > 1]
        assert shown.pop(name) == sum(value.nbytes for value in kept) / 12
    assert not shown
