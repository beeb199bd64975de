"""The program for machines with a GPU: it runs every such test, and ends within ten minutes.

Its clock is tested on the CPU: time passes when a fake command or a fake measurement says so.
"""

import importlib
import json
import os
import re
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


class Clock:
    """Time that passes on demand."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(scope="module")
def programs():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks" / "speed")
        names = ("time_budget", "gpu_costs", "gpu")
        yield {name: importlib.import_module(name) for name in names}


@pytest.fixture
def gpu(programs, monkeypatch):
    """The program on a machine that seems to have a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    return programs["gpu"]


def run_main(gpu, monkeypatch, clock, takes, only=None, output=None, rows=()):
    """Run it with parts that take so many seconds; returns limits and commands by part."""
    ran = {}

    def run(command, folder, limit):
        part = list(only or gpu.SURE)[len(ran)]
        ran[part] = limit, command
        clock.now += min(takes[part], limit + 5)  # until a killed program is given up
        if part == "costs":
            Path(command[command.index("--output") + 1]).write_text(json.dumps(list(rows)))
        return takes[part] <= limit

    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(
        gpu, "TimeBudget", lambda seconds: importlib.import_module("time_budget").TimeBudget(
            seconds, clock
        )
    )  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        gpu.main(tuple(only or gpu.SURE), [100], ["adam-lstm"], 5, output)
    return ran, ended.value.code


def test_every_folder_with_a_test_for_gpus_is_run(gpu):
    marked = {
        path.relative_to(ROOT).parts[1]
        for path in (ROOT / "tests").rglob("test_*.py")
        if re.search(r"mark\.gpu\b", path.read_text()) and path != Path(__file__)
    }
    command = gpu.command_of("tests", 240, {}, None)
    assert {f"tests/{folder}" for folder in marked} <= set(command)
    assert "tests/jobs" in command
    assert command[command.index("-m", 3) + 1] == "gpu"
    assert all((ROOT / folder).is_dir() for folder in command if folder.startswith("tests/"))


def test_tests_that_need_an_extra_are_left_out_without_it(gpu, monkeypatch):
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    assert "tests/jobs" not in gpu.command_of("tests", 240, {}, None)


def test_parts_that_overrun_end_within_ten_minutes(gpu, monkeypatch, clock):
    ran, status = run_main(gpu, monkeypatch, clock, dict.fromkeys(gpu.SURE, 10_000))
    assert list(ran) == ["tests", "costs", "meta-gradient"]
    assert clock.now - 1000 < 590
    assert status == 1
    for part, (limit, _) in ran.items():
        assert limit >= gpu.SURE[part] - 10  # what killed programs took to end


def test_a_part_may_take_the_time_that_earlier_ones_left(gpu, monkeypatch, clock):
    takes = {"tests": 50, "costs": 100, "meta-gradient": 30}
    ran, status = run_main(gpu, monkeypatch, clock, takes)
    assert status == 0
    assert ran["tests"][0] == 570 - 200 - 120
    assert ran["costs"][0] == 570 - 50 - 120
    assert ran["meta-gradient"][0] == 570 - 150
    alone, _ = run_main(gpu, monkeypatch, clock, takes, only=["costs"])
    limit, command = alone["costs"]
    assert limit == 570
    assert float(command[command.index("--seconds") + 1]) == 555


def test_what_was_measured_before_the_end_is_kept(gpu, monkeypatch, clock, tmp_path):
    takes = {"tests": 50, "costs": 1000, "meta-gradient": 30}
    file = tmp_path / "gpu.json"
    _, status = run_main(gpu, monkeypatch, clock, takes, output=file, rows=[{"way": "Triton"}])
    written = json.loads(file.read_text())
    assert written["costs"] == [{"way": "Triton"}]
    assert written["done"] == {"tests": True, "costs": False, "meta-gradient": True}
    assert status == 1


def test_a_command_is_killed_at_its_limit_with_what_it_started(programs, tmp_path):
    script = f"sleep 300 & echo $! > {tmp_path}/child; wait"
    begin = time.monotonic()
    assert not programs["time_budget"].run(["sh", "-c", script], tmp_path, 2)
    assert time.monotonic() - begin < 60
    child = int((tmp_path / "child").read_text())
    for _ in range(100):  # until it is killed and reaped
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            break
        time.sleep(0.1)
    else:
        os.kill(child, 9)
        pytest.fail("the child lives on")
    assert programs["time_budget"].run(["true"], tmp_path, 60)
    assert not programs["time_budget"].run(["false"], tmp_path, 60)


@pytest.fixture
def costs(programs, monkeypatch, clock):
    """The costs, with steps that take the seconds that they are given."""
    module = programs["gpu_costs"]

    def seconds(function, device):
        before = clock.now
        function()
        return clock.now - before

    monkeypatch.setattr(module, "seconds", seconds)
    monkeypatch.setattr(module, "peak_bytes", lambda function, device: 0)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return module


def steps_of(clock, **seconds):
    def taking(duration):
        def step():
            clock.now += duration

        return step

    return {way: taking(duration) for way, duration in seconds.items()}


def budget_of(programs, clock, seconds):
    return programs["time_budget"].TimeBudget(seconds, clock)


def test_turns_are_taken_while_they_fit(programs, costs, clock):
    ways = steps_of(clock, fast=0.5, slow=1.5)
    # Two looks at each take 4 s, a turn of three steps each takes 6 s.
    times = costs.take_turns(ways, 5, budget_of(programs, clock, 17))
    assert times == {"fast": [0.5, 0.5], "slow": [1.5, 1.5]}
    assert clock.now == 1000 + 4 + 2 * 6
    assert len(costs.take_turns(ways, 5, budget_of(programs, clock, 1e6))["slow"]) == 5


@pytest.mark.parametrize("seconds", [0, 1, 3, 5, 9])
def test_a_turn_that_does_not_fit_is_not_begun(programs, costs, clock, seconds):
    ways = steps_of(clock, fast=0.5, slow=1.5)
    with pytest.raises(programs["time_budget"].OutOfTime):
        costs.take_turns(ways, 5, budget_of(programs, clock, seconds))
    assert clock.now - 1000 <= seconds + 1.5  # the first look at a step cannot be foreseen


def test_kernels_are_not_compiled_after_the_end(programs, costs, clock, monkeypatch):
    made = []

    def make(name, fused, size, single):
        made.append(fused)
        clock.now += 10
        return lambda: None

    monkeypatch.setattr(costs, "adamw_step", lambda size, single: make("AdamW", None, size, single))
    monkeypatch.setattr(costs, "learned_step", make)
    monkeypatch.setattr(costs, "graphed", lambda step: step)
    with pytest.raises(programs["time_budget"].OutOfTime):
        costs.make_ways("adam-lstm", 100, False, budget_of(programs, clock, 25))
    assert made == [None, None, False]


def test_the_table_holds_what_fits_and_the_status_says_that_more_is_missing(
    programs, costs, clock, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(costs, "TimeBudget", lambda limit: budget_of(programs, clock, limit))
    monkeypatch.setattr(
        costs,
        "make_ways",
        lambda name, size, single, budget: steps_of(clock, AdamW=1.0, Triton=2.0),
    )
    file = tmp_path / "rows.json"

    def status(limit):
        with pytest.raises(SystemExit) as ended:
            costs.main([100], ["adam-lstm"], 2, limit, file)
        return bool(ended.value.code)

    # A case takes 6 s to look at, and 9 s for each of two turns; there are two cases.
    assert not status(1000)
    assert [row["to_adamw"] for row in json.loads(file.read_text())] == [1, 2] * 2
    assert status(45)  # the second case has one turn
    assert [row["turns"] for row in json.loads(file.read_text())] == [2, 2, 1, 1]
    assert "stopped" not in capsys.readouterr().out
    assert status(30)
    assert len(json.loads(file.read_text())) == 2
    assert "stopped: 2.0 s are needed, 2.0 s are left" in capsys.readouterr().out
