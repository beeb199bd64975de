"""How much slower is training with a GateMonitor attached?

    python benchmarks/speed/monitor_cost.py
    python benchmarks/speed/monitor_cost.py --quick  # the small network, few turns

Prints a Markdown table: milliseconds per step without the monitor, seconds to close it, which draws
the heat maps, and the step time with the monitor over the step time without it.

Two equal trainings take turns, one block of steps each. The ratio is that of their sums, because
observations are not spread evenly over turns. Time is processor time of all threads, because other
programs disturb it less.
"""

import argparse
import sys
import tempfile

import matplotlib.pyplot  # noqa: F401  (so that drawing does not include the import)
import torch
from measuring import seconds
from torch import nn

from learned_opt import LearnedOptimizer, create_rule
from learned_opt.monitoring.monitor import GateMonitor
from meta_train.evaluation.tables import markdown_table

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


def measure(rule_name, sizes, turns, block):
    """Ratio of step times, seconds per step without the monitor, seconds to close it."""
    off, on = Training(rule_name, sizes), Training(rule_name, sizes)
    with tempfile.TemporaryDirectory() as folder:
        monitor = GateMonitor(folder)
        monitor.attach(on.optimizer)
        off.run(block), on.run(block)
        times = []
        for turn in range(turns):
            order = (off, on) if turn % 2 else (on, off)
            took = {one: seconds(lambda one=one: one.run(block), processor=True) for one in order}
            times.append((took[off], took[on]))
        drawing = seconds(monitor.close, processor=True)  # draws the heat maps
    base, own = (sum(one) for one in zip(*times, strict=True))
    return own / base, base / (turns * block), drawing


def main(turns, block, threads, quick):
    torch.set_num_threads(threads)
    rows = []
    models = dict(list(MODELS.items())[:1]) if quick else MODELS
    for rule_name in RULES:
        for name, sizes in models.items():
            ratio, step, drawing = measure(rule_name, sizes, 3 if quick else turns, block)
            rows.append([rule_name, name, f"{1e3 * step:.2f}", f"{drawing:.2f}", f"{ratio:.3f}"])
            print(*rows[-1], file=sys.stderr)
    header = ["rule", "network", "ms per step", "s to close", "with / without"]
    print(markdown_table(header, rows, align="<<>>>"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the small network, 3 turns")
    parser.add_argument("--turns", type=int, default=15, help="measurements per rule and network")
    parser.add_argument("--block", type=int, default=1000, help="steps of a measurement")
    parser.add_argument("--threads", type=int, default=1)
    main(**vars(parser.parse_args()))
