"""What an attached monitor costs: step time with it over step time without, in one run.

    python benchmarks/speed/monitor_cost.py

Two equal trainings take turns, a block of steps each; the ratio of their times is taken turn by
turn, and the median is reported. Time is the CPU's, of all threads (TensorBoard's writer is one):
a busy machine disturbs it less. Drawing the heat maps falls into few of the turns, so it is timed
apart and spread over the steps from one drawing to the next.
"""

import argparse
import inspect
import statistics
import tempfile
import time

import matplotlib.pyplot  # noqa: F401  (drawing would else include importing it)
import torch
from torch import nn

from learned_opt import LearnedOptimizer, create_rule
from learned_opt.monitoring.monitor import GateMonitor

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
        self.optimizer = LearnedOptimizer(self.model.named_parameters(), lr=1e-3, rule=rule)

    def run(self, steps):
        """Seconds for `steps` steps."""
        begin = time.process_time()
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss = nn.functional.cross_entropy(self.model(self.inputs), self.labels)
            loss.backward()
            self.optimizer.step(lambda loss=loss: loss)
        return time.process_time() - begin


def measure(rule_name, sizes, turns):
    """Ratio on / off, drawing included; seconds of a step without and of a drawing."""
    off, on = Training(rule_name, sizes), Training(rule_name, sizes)
    with tempfile.TemporaryDirectory() as folder:
        # No drawing by itself within the turns.
        monitor = GateMonitor(folder, heat_map_every=10**9)
        monitor.attach(on.optimizer)
        block = monitor.every
        off.run(block), on.run(block)
        times = []
        for turn in range(turns):
            order = (off, on) if turn % 2 else (on, off)
            seconds = {training: training.run(block) for training in order}
            times.append((seconds[off], seconds[on]))
        begin = time.process_time()
        monitor.close()
        drawing = time.process_time() - begin
    step = statistics.median(seconds for seconds, _ in times) / block
    ratio = statistics.median(seconds / base for base, seconds in times)
    interval = inspect.signature(GateMonitor).parameters["heat_map_every"].default
    return ratio + drawing / (interval * block * step), step, drawing


def main(turns, threads):
    torch.set_num_threads(threads)
    print("| rule | network | ms a step | s a drawing | on / off |")
    print("| --- | --- | --- | --- | --- |")
    for rule_name in ("adam", "gated-lstm", "momentum-gated-lstm", "lstm"):
        for name, sizes in MODELS.items():
            ratio, step, drawing = measure(rule_name, sizes, turns)
            row = f"| {rule_name} | {name} | {1e3 * step:.2f} | {drawing:.2f} | {ratio:.3f} |"
            print(row, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure what a monitor costs.")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    main(**vars(parser.parse_args()))
