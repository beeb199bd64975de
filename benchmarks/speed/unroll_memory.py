"""How do memory and time of a meta-gradient grow with the number of inner steps, in each mode?

    python benchmarks/speed/unroll_memory.py --image  # table and picture, half an hour
    python benchmarks/speed/unroll_memory.py --quick  # up to 30 steps
    python benchmarks/speed/unroll_memory.py --steps 100 --modes plain checkpointing

The rule is an LSTM with two layers of 20 units (Andrychowicz et al. 2016), the optimizee a
MLP of 784, 20 and 10 units (15,910 parameters) on random data; inner gradients count as constants.
The modes are those of meta_train/estimators/memory_budget.py:

- plain keeps the graph of all steps;
- checkpointing keeps the state of some steps and computes the others twice; same gradient;
- truncated differentiates windows of 20 steps, which biases the gradient;
- pes is persistent evolution strategies in windows of 20 steps: two forward passes, no graph.

Prints a Markdown table: peak memory and milliseconds per inner step, and their ratios to plain.

Memory is the peak of a fresh process above its level after a warm-up: resident memory on a CPU
(Linux only), memory of torch's allocator on a GPU. Times are the shortest of several whole inner
runs of up to 100 steps; modes take turns in one process. On a CPU it is processor time, because
other programs disturb it less.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import torch
from measuring import seconds
from torch import nn

from learned_opt import create_rule
from meta_train.estimators import MetaObjective, create_estimator
from meta_train.estimators.differentiate import best_checkpoint_steps
from meta_train.estimators.footprint import measure
from meta_train.estimators.memory_budget import MODES
from meta_train.estimators.objectives import OBJECTIVES
from meta_train.evaluation.tables import markdown_table
from meta_train.inner.loop_settings import LoopSettings
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs.horizons import Horizons
from meta_train.inner.runs.runs import RunPlan, Runs
from meta_train.runtime.distributed import DistributedContext
from meta_train.tasks import ModuleTask

STEPS = (10, 30, 100, 300, 1000, 10_000)
WINDOW = 20
LONGEST = {"plain": 100, "checkpointing": 1000, "truncated": 300, "pes": 10_000}
TIMED = 100
IMAGE = Path(__file__).parents[2] / "docs" / "images" / "unroll_memory.png"


class Unroll:
    """One mode, with inner runs of one length."""

    def __init__(self, mode, steps, device):
        self.truncation_length = min(WINDOW, steps)
        self.steps = steps
        torch.manual_seed(0)
        data = torch.randn(1000, 784), torch.randint(10, (1000,))
        task = ModuleTask(
            lambda: nn.Sequential(nn.Linear(784, 20), nn.Sigmoid(), nn.Linear(20, 10)),
            nn.functional.cross_entropy,
            data,
        )
        self.meta_parameters = MetaParameters(create_rule("lstm")).to(device)
        settings = {}
        if mode == "checkpointing":
            footprint = self._footprint(task, device)
            settings["checkpoint_steps"] = best_checkpoint_steps(
                steps, footprint.state, footprint.step
            )
        name = {"plain": "full", "checkpointing": "full"}.get(mode, mode)
        self.estimator = create_estimator(name, **settings)
        truncation_length = self.truncation_length if self.estimator.continues else None
        self.runs = self._make_runs(task, device, truncation_length, self.estimator.copies)

    def _make_runs(self, task, device, truncation_length=None, copies=1):
        plan = RunPlan(Horizons(((self.steps,),)), truncation_length, copies)
        return Runs(
            self.meta_parameters,
            task,
            plan,
            indices=[0],
            total=1,
            seed=0,
            device=torch.device(device),
        )

    def _footprint(self, task, device):
        runs = self._make_runs(task, device)
        return measure(runs.begin(LoopSettings(), 0))

    def run(self):
        """The meta-gradient of one inner run; for truncated modes the one of its last window."""
        meta_objective = MetaObjective(OBJECTIVES["sum"])
        times = math.ceil(self.steps / self.truncation_length) if self.estimator.continues else 1
        for outer_step in range(times):
            estimate = self.estimator.estimate(
                self.meta_parameters,
                LoopSettings(),
                self.runs,
                meta_objective,
                outer_step,
                DistributedContext(),
            )
        return estimate


def resident(field):
    """Resident memory of this process in MiB: VmRSS (current) or VmHWM (peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(field)]
    return int(line.split()[1]) / 1024


def peak_of_one_run(mode, steps, device):
    """Peak MiB above the level after a warm-up. Call it in a fresh process."""
    Unroll(mode, 2, device).run()  # warm-up: libraries load, thread pools start
    unroll = Unroll(mode, steps, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        unroll.run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    before = resident("VmRSS")
    unroll.run()
    return resident("VmHWM") - before


def peak_in_fresh_process(mode, steps, device, threads):
    """Call `peak_of_one_run` in a fresh process."""
    command = [sys.executable, __file__, "--alone", mode, str(steps)]
    command += ["--device", device, "--threads", str(threads)]
    # Return large blocks to the system when they are freed, so that resident memory is in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout)


def times_in_turns(modes, steps, device, turns):
    """The shortest time of each mode over several turns."""
    unrolls = {mode: Unroll(mode, steps, device) for mode in modes}
    times = {mode: [] for mode in modes}
    for _ in range(turns):
        for mode, unroll in unrolls.items():
            times[mode].append(seconds(unroll.run, device, processor=device == "cpu"))
    return {mode: min(taken) for mode, taken in times.items()}


def difference(steps, device):
    """Norm of the difference of the gradients of plain and checkpointing, relative."""
    plain, other = (Unroll(mode, steps, device).run() for mode in ("plain", "checkpointing"))
    pairs = list(zip(plain.gradients, other.gradients, strict=True))
    total = sum(one.square().sum() for one, _ in pairs)
    return float((sum((one - other).square().sum() for one, other in pairs) / total).sqrt())


def print_table(rows):
    table = []
    plains = {row["steps"]: row for row in rows if row["mode"] == "plain"}
    for row in rows:
        plain = plains.get(row["steps"])
        share = f"{row['mib'] / plain['mib']:.2f}" if plain else ""
        ratio = f"{row['seconds'] / plain['seconds']:.2f}" if plain else ""
        each = f"{1e3 * row['seconds'] / row['steps']:.0f}" if row["seconds"] else ""
        table.append([row["steps"], row["mode"], f"{row['mib']:.0f}", share, each, ratio])
    header = ["inner steps", "mode", "peak MiB", "/ plain", "ms per step", "/ plain"]
    print(markdown_table(header, table, align="><>>>>"))


def draw(rows, path):
    """Draw memory and time against inner steps, one line per mode."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    colors = dict(zip(MODES, ("#1b6ca8", "#d1495b", "#3a7d44", "#b8860b"), strict=True))
    names = {"checkpointing": "checkpointing,\nsame gradient", "pes": "PES"}
    figure = Figure(figsize=(9, 4), layout="constrained")
    memory, duration = figure.subplots(1, 2)
    for mode, color in colors.items():
        own = [row for row in rows if row["mode"] == mode]
        timed = [row for row in own if row["seconds"]]
        style = {"marker": "o", "markersize": 4, "color": color}
        if own:
            steps, peaks = [row["steps"] for row in own], [row["mib"] for row in own]
            memory.plot(steps, peaks, **style)
            place = {"xytext": (7, 0), "textcoords": "offset points", "va": "center"}
            if mode == "truncated":  # the line of checkpointing crosses it from below
                place["xytext"] = (7, -7)
            label = names.get(mode, mode)
            memory.annotate(label, (steps[-1], peaks[-1]), color=color, **place)
        if timed:
            each = [1e3 * row["seconds"] / row["steps"] for row in timed]
            label = names.get(mode, mode).replace("\n", " ")
            duration.plot([row["steps"] for row in timed], each, label=label, **style)
    for axis in (memory, duration):
        axis.set(xscale="log", xlabel="inner steps")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    memory.set(title="Peak memory, MiB", yscale="log")
    memory.set_yticks([30, 100, 300, 1000], ["30", "100", "300", "1000"])
    memory.yaxis.set_minor_formatter(NullFormatter())
    memory.set_xlim(right=4 * max(row["steps"] for row in rows))  # room for names
    duration.set(title="Time of an inner step, ms")
    duration.set_ylim(bottom=0)
    duration.legend(frameon=False, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main(steps, modes, turns, threads, device, quick, json_path, image, alone):
    torch.set_num_threads(threads)
    if alone:
        print(json.dumps(peak_of_one_run(alone[0], int(alone[1]), device)))
        return
    steps = steps or (STEPS[:2] if quick else STEPS)
    rows = []
    for count in steps:
        here = [mode for mode in modes if count <= LONGEST[mode]]
        times = dict.fromkeys(here)
        if count <= TIMED:
            times = times_in_turns(here, count, device, turns)
        for mode in here:
            peak = peak_in_fresh_process(mode, count, device, threads)
            rows.append({"steps": count, "mode": mode, "mib": peak, "seconds": times[mode]})
            print(rows[-1], file=sys.stderr)
    print_table(rows)
    facts = {"device": device, "threads": threads, "torch": torch.__version__, "rows": rows}
    if {"plain", "checkpointing"} <= set(modes):
        longest = max((n for n in steps if n <= LONGEST["plain"]), default=10)
        facts["difference"] = {"steps": longest, "relative": difference(longest, device)}
        relative = facts["difference"]["relative"]
        print(f"\nGradient of checkpointing, relative difference: {relative:.1e}")
    if json_path is not None:
        json_path.write_text(json.dumps(facts, indent=1) + "\n")
    if image is not None:
        draw(rows, image)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", metavar="N", help="lengths of inner runs")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="up to 30 steps")
    parser.add_argument("--json", type=Path, dest="json_path", help="write the numbers here")
    parser.add_argument("--image", type=Path, nargs="?", const=IMAGE, help="draw them here")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    main(**vars(parser.parse_args()))
