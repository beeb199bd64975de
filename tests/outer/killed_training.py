"""Meta-trains in processes that are killed again and again; run by test_kill.py.

In a process of its own, which imports torch once and forks the processes to kill: twenty starts of
Python would take longer than all the rest.
"""

import json
import mmap
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from learned_opt import create_rule, files
from meta_train.outer import checkpoint
from meta_train.outer.settings import TrainSettings
from meta_train.outer.trainer import MetaTrainer
from meta_train.runtime.checkpoint_files import list_checkpoints, read_checkpoint
from meta_train.tasks import create_task

KILLS = 20
SAVING = mmap.mmap(-1, 1)  # shared with the forked processes
SETTINGS = {
    "truncated": {"estimator": "truncated", "restart": 0.5},
    "pes": {"estimator": "pes"},
}
POINTS = ("half written", "before the rename", "after the rename", "before the old one goes")


def make_trainer(folder, name):
    torch.manual_seed(0)
    settings = TrainSettings(
        outer_steps=20,
        runs=2,
        horizons=(2, 4),
        truncation_length=2,
        validate_every=4,
        checkpoint_every=1,
        gates_every=9,
        max_minutes=60.0,
        **SETTINGS[name],
    )
    return MetaTrainer(
        create_rule("adam-lstm", hidden_size=3),
        create_task("quadratic", dimensions=3),
        settings,
        folder=folder,
        device="cpu",
        validate=lambda meta_parameters: float(
            sum(p.square().sum() for p in meta_parameters.parameters())
        ),
    )


def train(folder, name):
    trainer = make_trainer(folder, name)
    trainer.resume()
    trainer.train(progress=False)


def fork(folder, name, prepare=lambda: None):
    """Train in a new process; its id."""
    SAVING[0] = 0
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        prepare()
        train(folder, name)
        status = 0
    except BaseException:
        traceback.print_exc()
    os._exit(status)


def has_finished(child):
    """Wait for a process; whether it finished, and did not die of the signal."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0, "a resumed run failed"
    return True


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def save_slowly():
    """Make more kills fall in a save, and say when one does."""
    write, sync = checkpoint.write_checkpoint, os.fsync

    def marked(*arguments):
        SAVING[0] = 1
        write(*arguments)
        SAVING[0] = 0

    def slow(handle):
        time.sleep(0.05)
        sync(handle)

    checkpoint.write_checkpoint = marked
    files.os.fsync = slow


def die_in_save(number, point):
    """Die in a process's `number`th save."""
    saves = 0
    write, sync, replace, unlink = (
        checkpoint.write_checkpoint, os.fsync, os.replace, Path.unlink,
    )  # fmt: skip

    def count(*arguments):
        nonlocal saves
        saves += 1
        write(*arguments)

    def sync_or_die(handle):
        if point == "half written" and saves == number:
            os.ftruncate(handle, os.fstat(handle).st_size // 2)
            die()
        sync(handle)

    def replace_or_die(*arguments):
        if point == "before the rename" and saves == number:
            die()
        replace(*arguments)
        if point == "after the rename" and saves == number:
            die()

    def unlink_or_die(path, missing_ok=False):
        if point == "before the old one goes" and saves == number:
            die()
        unlink(path, missing_ok)

    checkpoint.write_checkpoint = count
    files.os.fsync, files.os.replace, Path.unlink = sync_or_die, replace_or_die, unlink_or_die


def content(folder):
    """All that the newest checkpoint holds, but the clock."""
    newest = list_checkpoints(folder / "checkpoints")[-1]
    tensors, facts = read_checkpoint(newest)
    facts.pop("seconds")
    return newest.name, {key: value.numpy().tobytes() for key, value in tensors.items()}, facts


def kill_at_random(folder, name, unbroken, seconds):
    draw = random.Random(0)
    kills = in_save = finished = 0
    while kills < KILLS or not finished:
        run = folder / f"random-{finished}"
        child = fork(run, name, save_slowly)
        if kills < KILLS:
            time.sleep(draw.uniform(0, seconds / 4))
            os.kill(child, signal.SIGKILL)  # a zombie, if it was faster
        if has_finished(child):
            assert content(run) == unbroken, f"round {finished} differs"
            finished += 1
        else:
            kills += 1
            in_save += SAVING[0]
    return {"kills": kills, "in_save": in_save, "finished": finished}


def kill_in_saves(folder, name, unbroken):
    for point in POINTS:
        run = folder / point.replace(" ", "-")
        for number in (1, 3, 4):
            if point == POINTS[3] and number == 1:
                continue  # nothing to drop yet
            assert not has_finished(fork(run, name, lambda n=number, p=point: die_in_save(n, p)))
        if point in POINTS[:2]:
            assert list((run / "checkpoints").glob(".*")), "nothing was left half-done"
        assert has_finished(fork(run, name))
        assert content(run) == unbroken, point
        assert not list((run / "checkpoints").glob(".*")), "what was left is still there"
        assert len(list_checkpoints(run / "checkpoints")) == 2


def main(folder, name):
    torch.set_num_threads(1)
    make_trainer(None, name).take_outer_step()  # what is loaded late is loaded now
    began = time.monotonic()
    assert has_finished(fork(folder / "unbroken", name))
    seconds = time.monotonic() - began
    unbroken = content(folder / "unbroken")
    kill_in_saves(folder, name, unbroken)
    report = kill_at_random(folder, name, unbroken, seconds)
    # On a line of its own: a child may have been killed in the middle of one.
    print("\n" + json.dumps({**report, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
