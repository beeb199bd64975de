"""How much slower is training with a GateMonitor attached?

    python benchmarks/speed/monitor_cost.py
    python benchmarks/speed/monitor_cost.py --quick  # the small network, 5 seconds of training
    python benchmarks/speed/monitor_cost.py --tensors 20 200 800  # only the seconds to close

Prints a Markdown table: observations that the default makes in a minute of training, milliseconds
per step without them, the processor time of the observations in per cent of the rest, and the
seconds to close the monitor, which draws the heat maps. The step is that of the thread that trains;
both parts are of one run, so that other programs disturb the ratio little. With --tensors, a table
of an observation and of closing by the number of tensors, of which the 32 largest are observed.
"""

import argparse
import sys
import tempfile
import time

import matplotlib.pyplot  # noqa: F401  (so that drawing does not include the import)
import torch
from measuring import seconds
from torch import nn

from learned_opt import LearnedOptimizer, create_rule
from learned_opt.monitoring.monitor import GateMonitor
from meta_train.evaluation.tables import markdown_table

OBSERVED = 60
"""Observed steps before the monitor is closed, with --tensors."""

RULES = ("adam", "gated-lstm", "momentum-gated-lstm", "lstm", "step-size-lstm", "general")
MODELS = {"64-20-10": (64, 20, 10), "64-128-128-10": (64, 128, 128, 10)}


class Training:
    """A small network on random data, batch 128."""

    def __init__(self, rule_name, sizes):
        torch.manual_seed(0)
        layers = []
        for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        self.model = nn.Sequential(*layers[:-1])
        self.inputs = torch.randn(128, sizes[0])
        self.labels = torch.randint(10, (128,))
        rule = create_rule(rule_name)
        planned = 1_000_000 if "total_steps" in rule.needs else None
        self.optimizer = LearnedOptimizer(
            self.model.named_parameters(), lr=1e-3, rule=rule, total_steps=planned
        )

    def run(self, steps):
        """Take `steps` steps."""
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(self.inputs), self.labels)
            loss.backward()
            self.optimizer.step(lambda loss=loss: loss)


class TimedMonitor(GateMonitor):
    """Adds up the processor time of its observations."""

    spent = 0.0

    def observe(self, *args, **options):
        """Observe, and take the time."""
        began = time.thread_time()
        super().observe(*args, **options)
        self.spent += time.thread_time() - began


def measure(rule_name, sizes, least):
    """Observations, seconds per step without them, their share in per cent, seconds to close."""
    training = Training(rule_name, sizes)
    with tempfile.TemporaryDirectory() as folder:
        monitor = TimedMonitor(folder)
        monitor.attach(training.optimizer)
        began, steps = time.thread_time(), 0
        while time.thread_time() - began < least:
            training.run(100)
            steps += 100
        total = time.thread_time() - began
        maps = monitor._board.heat_maps.observed
        closing = seconds(monitor.close, processor=True)  # draws the heat maps
    step = (total - monitor.spent) / steps
    return maps, step, 100 * monitor.spent / (total - monitor.spent), closing


def measure_closing(count):
    """Milliseconds of an observation and seconds to close, for so many small matrices."""
    torch.manual_seed(0)
    matrices = [nn.Parameter(torch.randn(8 + k % 13, 4 + 7 * k % 11)) for k in range(count)]
    named = [(f"layers.{k}.weight", matrix) for k, matrix in enumerate(matrices)]
    optimizer = LearnedOptimizer(named, lr=1e-3, rule=create_rule("gated-lstm"))
    with tempfile.TemporaryDirectory() as folder:
        monitor = TimedMonitor(folder, every=1)
        monitor.attach(optimizer)
        for _ in range(OBSERVED):
            for matrix in matrices:
                matrix.grad = 0.1 * matrix.detach()
            optimizer.step(lambda: torch.ones(()))
        return 1e3 * monitor.spent / OBSERVED, seconds(monitor.close, processor=True)


def main(least, threads, quick, tensors):
    torch.set_num_threads(threads)
    rows = []
    if tensors:
        for count in tensors:
            observing, closing = measure_closing(count)
            rows.append([str(count), f"{observing:.1f}", f"{closing:.2f}"])
        header = ["tensors", "ms per observation", "s to close"]
        print(markdown_table(header, rows, align=">>>"))
        return
    models = dict(list(MODELS.items())[:1]) if quick else MODELS
    for rule_name in RULES:
        for name, sizes in models.items():
            count, step, share, closing = measure(rule_name, sizes, 5 if quick else least)
            figures = [str(count), f"{1e3 * step:.2f}", f"{share:.2f}%", f"{closing:.2f}"]
            rows.append([rule_name, name, *figures])
            print(*rows[-1], file=sys.stderr)
    header = ["rule", "network", "observations", "ms per step", "monitor", "s to close"]
    print(markdown_table(header, rows, align="<<>>>>"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the small network, 5 seconds each")
    parser.add_argument("--least", type=float, default=60, help="seconds of training of each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tensors", type=int, nargs="+", help="numbers of tensors of a model")
    main(**vars(parser.parse_args()))
