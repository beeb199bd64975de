"""What the processes that test_ranks.py starts with torchrun do."""

import os
import signal
import sys
from pathlib import Path

import torch

from learned_opt import create_rule
from learned_opt.files import write_tensors
from meta_train.jobs import cli
from meta_train.outer.meta_optimizer import MetaOptimizer
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.runtime.distributed import joined
from meta_train.tasks import Mixture, create_task

CASES = {
    "truncated": {"restart": 0.5},
    "full": {
        "estimator": "full",
        "estimator_settings": {"checkpoint_steps": 2},
        "objective": "log",
    },
    "es": {"estimator": "es", "estimator_settings": {"clip": 2.0}},
    "pes": {"estimator": "pes"},
    "memory": {"estimator": "full", "memory": "checkpointing"},
    "family": {"groups": 2, "objective_data": "fresh"},
}
JOB = [
    "--task", "quadratic",
    "--rule_settings", '{"hidden_size": 3}',
    "--train.runs", "3",
    "--train.horizons", "[4]",
    "--train.truncation_length", "2",
    "--train.outer_steps", "6",
    "--train.checkpoint_every", "1",
    "--train.validate_every", "2",
    "--train.gates_every", "2",
    "--evaluate.steps", "5",
    "--evaluate.seeds", "1",
    "--evaluate.workers", "1",
    "--device", "cpu",
]  # fmt: skip


def make_trainer(name, distributed, folder=None):
    torch.manual_seed(0)
    task = create_task("quadratic", dimensions=3)
    if name == "family":
        task = Mixture({"small": task, "large": create_task("quadratic", dimensions=5)})
    settings = TrainSettings(
        **{"outer_steps": 6, "runs": 5, "horizons": (2, 4), "truncation_length": 2, **CASES[name]},
        dtype="float64",
        validate_every=3,
        max_minutes=60.0,
    )
    return MetaTrainer(
        create_rule("adam-lstm", hidden_size=3),
        task,
        settings,
        folder=folder,
        device="cpu",
        validate=lambda meta_parameters: float(
            sum(p.square().sum() for p in meta_parameters.parameters())
        ),
        distributed=distributed,
    )


def train_all(distributed, folder):
    """Meta-train every case, and two more steps of one that each number of processes takes on."""
    for name in CASES:
        trainer = make_trainer(name, distributed)
        trainer.train(progress=False)
        write(trainer, folder / f"{name}-{distributed.size}")
    taken_on = make_trainer("truncated", distributed, folder / "taken-on")
    taken_on.resume()
    for _ in range(2):
        taken_on.take_outer_step()
    taken_on.save()
    write(taken_on, folder / f"taken-on-{distributed.size}")


def write(trainer, path):
    own = [value.detach() for value in trainer.meta_parameters.parameters()]
    for other in trainer.distributed.gather(own):
        assert all(torch.equal(a, b) for a, b in zip(own, other, strict=True))
    if trainer.distributed.first:
        tensors = {
            **trainer.meta_parameters.state_dict(),
            **trainer.best.state_dict(prefix="best."),
        }
        write_tensors(path, tensors, "test", {})


def fail_in_step_3(how):
    """Let the last process fail in the middle of the run."""
    step = MetaOptimizer.step

    def step_or_fail(meta_optimizer, gradients, outer_step, **named):
        if outer_step == 3 and os.environ["RANK"] == "1":
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("a mistake of process 1")
        return step(meta_optimizer, gradients, outer_step, **named)

    MetaOptimizer.step = step_or_fail


def main():
    mode, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    if mode == "all":
        with joined("cpu") as (distributed, _):
            train_all(distributed, folder)
        return 0
    if mode in ("killed", "mistaken"):
        fail_in_step_3(mode)
    return cli.main([*JOB, "--out", str(folder), *sys.argv[3:]])


if __name__ == "__main__":
    sys.exit(main())
