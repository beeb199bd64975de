"""Inner runs into a checkpoint, and out of it again."""

from __future__ import annotations

from typing import Any, TypeAlias

from torch import Tensor

from meta_train.inner.runs import Runs

Saved: TypeAlias = dict[int, tuple[dict[str, Tensor], dict[str, Any]]]
"""By run index: tensors and JSON-able facts."""


def save_runs(runs: Runs) -> Saved:
    """What `load_runs` goes on from: tensors and JSON-able facts, by run index."""
    result = {}
    for run, index in enumerate(runs.indices):
        tensors = {}
        if runs.plan.truncation_length is not None:  # whole runs end with their outer step
            # Copies: the tensors themselves are written over when a run is replaced.
            tensors = {k: v[runs.rows_of(run)].clone() for k, v in runs.inner.named_tensors()}
        tensors.update({f"carried/{k}": v[run].clone() for k, v in runs.carried.items()})
        ends, ages = runs.buffer.save(run)
        tensors.update({f"kept/{key}": value for key, value in ends.items()})
        facts = {
            "episode": runs.episodes[run],
            "origin": list(runs.origins[run]),
            "age": runs.ages[run],
            "offset": runs.offsets[run],
            "length": runs.lengths[run],
            "kept": ages,
        }
        result[index] = tensors, facts
    return result


def load_runs(runs: Runs, saved: Saved) -> None:
    """Go on from what `save_runs` gave, here or in other processes.

    Raises:
        ValueError: it holds other runs than these.
    """
    missing = [index for index in runs.indices if index not in saved]
    if missing:
        raise ValueError(f"the checkpoint holds no runs {missing}: it is of fewer runs")
    runs.begin_all()
    for run, index in enumerate(runs.indices):
        tensors, facts = saved[index]
        tensors = {key: value.to(runs.device) for key, value in tensors.items()}
        runs.episodes[run], runs.ages[run] = facts["episode"], facts["age"]
        runs.offsets[run], runs.lengths[run] = facts["offset"], facts["length"]
        runs.origins[run] = (facts["origin"][0], facts["origin"][1])
        runs.problems[run] = runs.problem_of(runs.origins[run])
        if runs.plan.truncation_length is not None:
            for name, target in runs.inner.named_tensors():
                target[runs.rows_of(run)] = tensors[name]
        for name, value in tensors.items():
            if name.startswith("carried/"):
                shape = (runs.count, *value.shape)
                table = runs.carried.setdefault(name[len("carried/") :], value.new_zeros(shape))
                table[run] = value
        ends = {k.removeprefix("kept/"): v for k, v in tensors.items() if k.startswith("kept/")}
        runs.buffer.load(run, ends, facts["kept"], runs.inner)
