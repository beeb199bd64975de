"""Test functions that run in two processes at once.

    @on_two_processes
    def test_sum(folder): ...  # runs in both, with torch.distributed set up (gloo)

All such functions share one start of the processes, which takes seconds. They run in order; after
the first failure no other runs, since the processes are no longer in step.
"""

import functools
import importlib
import os
import traceback
import warnings
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

RANKS = 2
_BODIES = {}
_FAILURES = {}


def on_two_processes(body):
    """Make a test out of a function that both processes run, each given the same empty folder."""
    _BODIES[body.__name__] = body

    # Not functools.wraps: pytest would look for the argument of the body.
    def test(request, tmp_path_factory):
        if not _FAILURES:
            _run(request.session.items, tmp_path_factory.mktemp("processes"))
        if _FAILURES[body.__name__]:
            pytest.fail("\n".join(_FAILURES[body.__name__]), pytrace=False)

    functools.update_wrapper(test, body, updated=())
    del test.__wrapped__
    return test


def _run(items, folder):
    """Run the collected tests that need two processes, and keep their failures."""
    tests = [(item.module.__name__, item.name) for item in items if item.name in _BODIES]
    for _, name in tests:
        _FAILURES[name] = ["not run: a test before it failed"]
    torch.multiprocessing.spawn(_work, (tests, folder), nprocs=RANKS)
    for _, name in tests:
        reports = [folder / f"{name}.{rank}" for rank in range(RANKS)]
        if any(report.exists() for report in reports):
            texts = [report.read_text() if report.exists() else "" for report in reports]
            _FAILURES[name] = [f"rank {rank}: {text}" for rank, text in enumerate(texts) if text]


def _work(rank, tests, folder):
    torch.set_num_threads(1)
    _be_strict_about_warnings()
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=60),
    )
    for module, name in tests:
        report = folder / f"{name}.{rank}"
        (folder / name).mkdir(exist_ok=True)
        try:
            importlib.import_module(module)
            _BODIES[name](folder / name)
            dist.barrier()
        except BaseException:  # pytest.raises fails with a BaseException
            report.write_text(traceback.format_exc())
            os._exit(0)  # the other process fails in its next exchange with this one
        report.write_text("")
    dist.destroy_process_group()


def _be_strict_about_warnings():
    warnings.simplefilter("error")
    # From the import of torch.distributed.optim; the kind of warning changed in torch 2.14.
    warnings.filterwarnings("ignore", "rule .* ignores total_steps", UserWarning)
    warnings.filterwarnings("ignore", r"`torch\.jit\.(script|interface)` is deprecated")
    # From a checkpoint with no_dist=True, as intended.
    warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
