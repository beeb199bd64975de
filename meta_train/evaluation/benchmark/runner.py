"""Makes the runs of a plan on all cores, and records each result at once."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait

import torch

from learned_opt.files import one_line
from meta_train.evaluation.benchmark.contestants.registry import find_contestant
from meta_train.evaluation.benchmark.games import GAMES, play_once
from meta_train.evaluation.benchmark.plan import Plan
from meta_train.evaluation.benchmark.records import Failed, Records, Result, RunKey
from meta_train.evaluation.benchmark.tasks import TASKS
from meta_train.evaluation.benchmark.training import train_once
from meta_train.evaluation.processes import interrupts_held, worker_pool


def run_one(key: RunKey, steps: int) -> Result:
    """Make one run. An error of an optimizer is its result, and does not end the benchmark.

    Args:
        key: the run.
        steps: its training steps.
    """
    contestant, setting = find_contestant(key.optimizer), dict(key.setting)
    try:
        if key.task in GAMES:
            game = GAMES[key.task]
            return play_once(game, contestant, setting, seed=key.seed, steps=steps)
        return train_once(
            TASKS[key.task],
            contestant,
            setting,
            seed=key.seed,
            steps=steps,
            told_steps=round(steps * key.told),
        )
    except Exception as error:  # whatever a user's optimizer raises
        return Failed(f"{type(error).__name__}: {one_line(error)}")


def run_all(
    plan: Plan,
    records: Records,
    *,
    workers: int,
    on_run: Callable[[RunKey, Result | None], object],
) -> None:
    """Make all runs of a plan that are not recorded yet.

    Args:
        plan: what is wanted.
        records: what is known; every result is added at once.
        workers: number of processes; 1 runs in this process.
        on_run: called when a run begins, with None, and when it has ended, with its result.
    """
    steps = plan.steps()
    if workers == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            while (key := _next(plan, records, ())) is not None:
                on_run(key, None)
                result = run_one(key, steps[key.task])
                records.add(key, result)
                on_run(key, result)
        finally:
            torch.set_num_threads(threads)
        return
    running: dict[Future[Result], RunKey] = {}
    with worker_pool(workers) as pool:
        while True:
            while len(running) < workers:
                key = _next(plan, records, running.values())
                if key is None:
                    break
                on_run(key, None)
                with interrupts_held():
                    running[pool.submit(run_one, key, steps[key.task])] = key
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                key = running.pop(future)
                result = future.result()
                records.add(key, result)
                on_run(key, result)


def _next(plan: Plan, records: Records, running: Collection[RunKey]) -> RunKey | None:
    """The first run that is wanted, not recorded and not under way."""
    return next(
        (key for key in plan.wanted(records) if key not in running and records.get(key) is None),
        None,
    )
