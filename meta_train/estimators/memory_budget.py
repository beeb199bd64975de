"""Chooses how to take the meta-gradient within a memory budget.

Differentiating through `T` inner steps keeps the graph of all of them. Four modes, from
exact to least memory:

- plain: the whole graph of `T` steps.
- checkpointing: gradient checkpointing keeps a state every `k` steps and the graph of `k` steps,
  which are computed twice (Griewank 1992; Chen et al. 2016, arXiv 1604.06174). The same gradient.
- truncated: truncation windows (Werbos 1990) with checkpointing inside. A biased gradient.
- pes: persistent evolution strategies (Vicol et al. 2021, arXiv 2112.13835). No graph at all.

The bytes of a step's tensors are counted, not guessed. They are the same every time, so a resumed
meta-training chooses the same mode.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from meta_train.estimators.differentiate import best_checkpoint_steps
from meta_train.estimators.footprint import Footprint, measure
from meta_train.estimators.objectives import Objective
from meta_train.inner.loop_settings import LoopSettings
from meta_train.inner.runs.runs import Runs
from meta_train.runtime.distributed import DistributedContext

MODES = ("plain", "checkpointing", "truncated", "pes")
MIB = 2**20
_UNITS = {"KiB": 2**10, "MiB": MIB, "GiB": 2**30}


@dataclass(frozen=True)
class MemoryPlan:
    """How to take the meta-gradient.

    Attributes:
        mode: one of `MODES`.
        predicted_bytes: predicted peak of live tensors.
        checkpoint_steps: see `Backprop`; None keeps the whole graph.
        truncation_length: inner steps per outer step; None takes whole runs.
    """

    mode: str
    predicted_bytes: int
    checkpoint_steps: int | None = None
    truncation_length: int | None = None

    def __str__(self) -> str:
        """Return one line for the log."""
        how = {
            "plain": "keeps the graph of all steps",
            "checkpointing": f"computes segments of {self.checkpoint_steps} steps twice, same "
            "gradient",
            "truncated": f"gradients reach back {self.truncation_length} steps, which biases them",
            "pes": f"no graph, windows of {self.truncation_length} steps",
        }[self.mode]
        return f"memory: {self.mode} ({how}), predicted peak {self.predicted_bytes / MIB:.0f} MiB"


def read_budget(memory: str) -> int | None:
    """Return the bytes of a budget such as "500MiB"; None for the name of a mode.

    Raises:
        ValueError: neither a mode nor a budget.
    """
    if memory in MODES:
        return None
    if memory == "segments":
        raise ValueError('memory="segments" is now called memory="checkpointing"')
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(KiB|MiB|GiB)", memory)
    if found is None or float(found[1]) == 0:
        raise ValueError(
            f'memory must be one of {", ".join(MODES)} or a budget such as "500MiB", got {memory!r}'
        )
    return int(float(found[1]) * _UNITS[found[2]])


def choose_mode(
    memory: str,
    footprint: Footprint,
    steps: int,
    truncation_length: int,
    *,
    whole_runs: bool = False,
) -> MemoryPlan:
    """Return the named mode, or the first of `MODES` that fits the budget.

    Args:
        memory: a mode or a budget.
        footprint: bytes of one group's runs.
        steps: the longest horizon.
        truncation_length: inner steps per outer step for `pes`, and for `truncated` by name. Within
            a budget `truncated` takes the longest window that fits, at least this one.
        whole_runs: the objective needs whole runs, so windows do not count as fitting.

    Raises:
        ValueError: `memory` is neither a mode nor a budget, or no mode fits.
    """
    budget = read_budget(memory)
    checkpoint_steps = best_checkpoint_steps(steps, footprint.state, footprint.step)
    peak = footprint.checkpointing(steps, checkpoint_steps)
    plans = [
        MemoryPlan("plain", footprint.plain(steps)),
        MemoryPlan("checkpointing", peak, checkpoint_steps),
    ]
    if not whole_runs or budget is None:
        longest = _longest_window(footprint, steps, truncation_length, budget)
        inside = None
        peak = footprint.plain(longest)
        if budget is not None:
            inside = best_checkpoint_steps(longest, footprint.state, footprint.step)
            peak = footprint.checkpointing(longest, inside)
        plans.append(MemoryPlan("truncated", peak, inside, longest))
        plans.append(MemoryPlan("pes", footprint.pes(), None, truncation_length))
    for plan in plans:
        if plan.mode == memory or (budget is not None and plan.predicted_bytes <= budget):
            return plan
    least = min(plans, key=lambda plan: plan.predicted_bytes)
    why = "; the objective needs whole runs, so truncated and pes do not count" * whole_runs
    raise ValueError(
        f"memory={memory!r} is too little: {least.mode} takes the least, "
        f"{least.predicted_bytes / MIB:.1f} MiB{why}"
    )


def _longest_window(footprint: Footprint, steps: int, least: int, budget: int | None) -> int:
    """Return the longest window that fits, but at least `least`."""
    if budget is None:
        return least
    low, high = least, max(least, steps)
    while low < high:
        middle = (low + high + 1) // 2
        checkpoint_steps = best_checkpoint_steps(middle, footprint.state, footprint.step)
        fits = footprint.checkpointing(middle, checkpoint_steps) <= budget
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def apply_memory_budget(
    memory: str,
    groups: Sequence[Runs],
    settings: LoopSettings,
    *,
    steps: int,
    truncation_length: int,
    objective: Objective,
    outer_data: str,
    distributed: DistributedContext,
) -> MemoryPlan:
    """Measure a few inner steps and choose how to take the meta-gradient.

    It measures the first task of each group. A family whose later tasks are larger can exceed the
    budget.

    Args:
        memory: a mode of `MODES` or a budget such as "500MiB" for each process.
        groups: whole runs of each group, without copies. They begin outer step 0, but take no step.
        settings: how inner steps are taken.
        steps: the longest horizon.
        truncation_length: see `choose_mode`.
        objective: the objective.
        outer_data: see `MetaObjective.data`.
        distributed: the processes that share the runs; all get the same plan.

    Raises:
        ValueError: no mode fits the budget.
    """
    found = [measure(runs.begin(settings, 0, outer_data=outer_data)) for runs in groups]
    largest = Footprint(
        state=max(one.state for one in found),
        step=max(one.step for one in found),
        work=max(one.work for one in found),
    )
    largest = replace(largest, other=(len(found) - 1) * largest.state)
    # Shares of the runs may differ by one, but all processes must choose alike.
    parts = distributed.gather(asdict(largest))  # in the first process only
    footprint = distributed.from_first(
        lambda: Footprint(**{key: max(part[key] for part in parts) for key in parts[0]})
    )
    return choose_mode(
        memory, footprint, steps, truncation_length, whole_runs=objective.needs_whole_runs
    )
