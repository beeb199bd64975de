"""How much faster is meta-training with several processes?

    python benchmarks/speed/scaling.py  # 1 and 2 processes
    python benchmarks/speed/scaling.py --processes 1 4
    python benchmarks/speed/scaling.py --quick  # one turn of 3 outer steps

Prints a Markdown table: seconds per outer step, speedup over the first number of processes, inner
steps per second, bytes sent per outer step, and the fraction of the time spent in communication
(sending, receiving, waiting for the slowest process).

All numbers of processes train the same total batch of inner runs, one thread per process. They take
turns, and speedups are taken within a turn, so that other programs slow down all alike. Figures are
medians over turns.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch
import torch.distributed as dist

from learned_opt import create_rule
from meta_train.evaluation.tables import markdown_table
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.runtime.distributed import joined
from meta_train.tasks import create_task

CASES = {
    "truncated, 8 runs": {"estimator": "truncated", "runs": 8},
    "truncated, 64 runs": {"estimator": "truncated", "runs": 64},
    "es, 8 pairs": {"estimator": "es", "runs": 8, "horizons": (20,)},
}
WARMUP = 2


class Messages:
    """Replaces `torch.distributed.all_reduce` to count its calls, bytes and seconds."""

    def __init__(self):
        self.count = self.bytes = self.seconds = 0
        self._send = dist.all_reduce
        dist.all_reduce = self

    def __call__(self, tensor):
        """Send the tensor and count it."""
        begin = time.perf_counter()
        self._send(tensor)
        self.seconds += time.perf_counter() - begin
        self.count += 1
        self.bytes += tensor.numel() * tensor.element_size()


def measure(case, steps):
    """Measure one case in this process, one of those that `torchrun` started."""
    torch.set_num_threads(1)
    with joined("cpu") as (distributed, device):
        torch.manual_seed(0)
        settings = TrainSettings(outer_steps=1000, **CASES[case])
        task = create_task("digits-mlp")
        trainer = MetaTrainer(
            create_rule("adam-lstm"), task, settings, device=device, distributed=distributed
        )
        for _ in range(WARMUP):
            trainer.take_outer_step()
        messages = Messages()
        begin = time.perf_counter()
        inner_steps = sum(trainer.take_outer_step().estimate.inner_steps for _ in range(steps))
        seconds = time.perf_counter() - begin
        if distributed.first:
            result = {
                "meta_parameters": sum(p.numel() for p in trainer.meta_parameters.parameters()),
                "seconds": seconds / steps,
                "inner_steps_per_second": inner_steps / seconds,
                "messages": messages.count / steps,
                "bytes": messages.bytes / steps,
                "share": messages.seconds / seconds,
            }
            print("result " + json.dumps(result), flush=True)


def run(case, processes, steps):
    """Measure one case in new processes."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *launch, __file__, "--worker", case, "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    line = next(line for line in done.stdout.splitlines() if line.startswith("result "))
    return json.loads(line.removeprefix("result "))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--turns", type=int, default=3, help="measurements of each case")
    parser.add_argument("--steps", type=int, default=20, help="outer steps per measurement")
    parser.add_argument("--quick", action="store_true", help="one turn of 3 outer steps")
    parser.add_argument("--worker", choices=list(CASES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        measure(arguments.worker, arguments.steps)
        return
    steps, repeats = (3, 1) if arguments.quick else (arguments.steps, arguments.turns)
    rows = []
    for case in arguments.cases:
        turns = [
            [run(case, number, steps) for number in arguments.processes] for _ in range(repeats)
        ]
        for place, number in enumerate(arguments.processes):
            results = [turn[place] for turn in turns]
            middle = {key: statistics.median(r[key] for r in results) for key in results[0]}
            speedup = statistics.median(
                turn[0]["seconds"] / turn[place]["seconds"] for turn in turns
            )
            rows.append(
                [
                    case,
                    number,
                    f"{middle['seconds']:.3f}",
                    f"{speedup:.2f}",
                    f"{middle['inner_steps_per_second']:.0f}",
                    f"{middle['bytes']:.0f}",
                    f"{middle['share']:.1%}",
                ]
            )
            print(*rows[-1], file=sys.stderr)
    header = ["case", "processes", "s per step", "speedup", "inner steps/s", "bytes per step"]
    print(markdown_table([*header, "communication"], rows))


if __name__ == "__main__":
    main()
