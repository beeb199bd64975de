"""How long does an outer step of evolution strategies take, and what do the faster ways save?

    python benchmarks/speed/es_outer_step.py  # compiles for some minutes
    python benchmarks/speed/es_outer_step.py --ways vmap batched  # compiles nothing
    python benchmarks/speed/es_outer_step.py --dtype float64  # the same weights
    python benchmarks/speed/es_outer_step.py --ways vmap nudged batched  # how chaotic is it?

Meta-trains step-size-lstm on random MLPs as examples/step_size_lstm.yaml does, with shorter inner
runs by default. All ways train on the same tasks in turns. Prints a Markdown table: milliseconds of
processor time for each inner step of the 64 runs, in outer steps in which nothing was compiled; the
ratio to the first way; and how far the rule's weights are from its at the end. Long inner runs are
chaotic: in float32 a last digit moves all that follows. The ways are:

- vmap: loss, gradient and rule under torch.func.vmap; each run's batch is taken by itself.
- nudged: as vmap, but the rule's largest weight begins one unit in the last place lower. Where this
  moves the weights as far as another way does, that way differs by rounding alone.
- batched: one gather for the batches, and the loss of all perceptrons by batched products.
- compiled: the rule's step is compiled, too (compile_rule).
- fused: the rule's step is in C instead (fused_rule), as by default.
"""

import argparse
import statistics
import sys
import time
from dataclasses import replace

import torch

from learned_opt import create_rule
from meta_train.evaluation.tables import markdown_table
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.tasks import create_task
from meta_train.tasks.base import BatchedLoss, SampledTask, Task, TaskFamily

WAYS = ("vmap", "nudged", "batched", "compiled", "fused")
TIMED = ("vmap", "batched", "compiled", "fused")


class OneByOne(Task):
    """A task whose problems have no faster way for many runs."""

    def __init__(self, task):
        self.task = task

    def sample(self, generator, device):
        """Draw a problem of the task."""
        problem = self.task.sample(generator, device)
        loss = problem.loss.one if isinstance(problem.loss, BatchedLoss) else problem.loss
        return replace(problem, loss=loss, draw=lambda source: problem.draw(source))


class OneByOneFamily(TaskFamily):
    """A family of such tasks."""

    def __init__(self, family):
        self.family = family

    def sample_task(self, generator):
        """Draw a task of the family."""
        name, task = self.family.sample_task(generator)
        return SampledTask(name, OneByOne(task))

    def held_out(self):
        """See the family."""
        return self.family.held_out()


def make_trainer(way, outer_steps, horizons, runs, dtype="float32"):
    settings = TrainSettings(
        estimator="es",
        estimator_settings={"sigma": 0.05, "clip": 2.0},
        outer_steps=outer_steps,
        runs=runs,
        horizons=horizons,
        horizon_draw="log-uniform",
        objective="log-tail",
        param_rescale_range=0.5,
        loss_rescale_range=1.0,
        hide_loss=0.25,
        lr=0.01,
        grad_clip_norm=100.0,
        compile_rule=way == "compiled",
        fused_rule=way == "fused",
        dtype=dtype,
    )
    family = create_task("random-mlp", data=["photos", "digits"])
    torch.manual_seed(0)
    rule = create_rule("step-size-lstm")
    if way == "nudged":
        nudge(rule)
    family = OneByOneFamily(family) if way in ("vmap", "nudged") else family
    return MetaTrainer(rule, family, settings, device="cpu")


def nudge(rule):
    """Move the largest weight by one unit in the last place; others would drown in the noise."""
    weights = max(rule.parameters(), key=lambda weight: float(weight.detach().abs().max())).data
    flat = weights.view(-1)
    place = int(flat.abs().argmax())
    flat[place] = torch.nextafter(flat[place], torch.zeros(()))


def measure(trainers):
    """Milliseconds of an inner step by way, of outer steps in which nothing was compiled."""
    first = next(iter(trainers.values()))
    found = {way: [] for way in trainers}
    for _ in range(first.settings.outer_steps):
        took, compiled = {}, 0.0
        for way, trainer in trainers.items():
            rule = trainer.loop_settings.compiled
            graphs = 0 if rule is None else rule.graphs
            begin = time.process_time(), time.perf_counter()
            record = trainer.take_outer_step()
            took[way] = 1e3 * (time.process_time() - begin[0]) / record.horizon
            if rule is not None and rule.graphs > graphs:
                compiled = time.perf_counter() - begin[1]
        line = ", ".join(f"{way} {value:.2f} ms" for way, value in took.items())
        print(f"{line}; horizon {record.horizon:g}; compiled for {compiled:.0f} s", file=sys.stderr)
        if not compiled:
            for way, value in took.items():
                found[way].append(value)
    return found


def distance(trainer, other):
    pairs = zip(trainer.rule.parameters(), other.rule.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def main(ways, outer_steps, horizons, runs, threads, dtype):
    torch.set_num_threads(threads)
    trainers = {way: make_trainer(way, outer_steps, tuple(horizons), runs, dtype) for way in ways}
    found = measure(trainers)
    print(f"torch {torch.__version__}, {dtype}, threads: {threads}, outer steps: {outer_steps}\n")
    first, cells = ways[0], []
    for way in ways:
        ratios = [a / b for a, b in zip(found[first], found[way], strict=True)]
        cells.append(
            [
                way,
                f"{statistics.median(found[way]):.2f}",
                f"{statistics.median(ratios):.2f}",
                f"{distance(trainers[way], trainers[first]):.1e}",
            ]
        )
    header = ["way", "ms an inner step", f"x as fast as {first}", "largest difference of weights"]
    print(markdown_table(header, cells, align="<>>>"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=TIMED, metavar="WAY")
    parser.add_argument("--outer-steps", type=int, default=20)
    parser.add_argument("--horizons", nargs=2, type=int, default=[100, 200], metavar="STEPS")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--runs", type=int, default=32, help="pairs of runs")
    parser.add_argument("--threads", type=int, default=1)
    main(**vars(parser.parse_args()))
