"""Records the results of runs in one JSON file, which a later call continues."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learned_opt.files import write_atomically
from meta_train.evaluation.benchmark.contestants.contestant import Setting
from meta_train.evaluation.benchmark.games import Played
from meta_train.evaluation.benchmark.training import Trained

FORMAT = 1
TUNING_SEED = 1000
"""Seed on which settings are chosen; it is never scored."""


@dataclass(frozen=True)
class RunKey:
    """The key of a run: task, optimizer, setting and seed.

    Attributes:
        task: name of a task or a game.
        optimizer: name of a contestant.
        setting: its options, sorted by name.
        seed: seed of weights and batches.
        told: the number of steps that the optimizer is told, as a multiple of the true one.
    """

    task: str
    optimizer: str
    setting: tuple[tuple[str, float], ...]
    seed: int
    told: float = 1.0


def run_key(task: str, optimizer: str, setting: Setting, seed: int, *, told: float = 1.0) -> RunKey:
    """The key of a run with this setting."""
    plain = tuple(sorted((name, float(f"{value:.6g}")) for name, value in setting.items()))
    return RunKey(task, optimizer, plain, seed, told)


@dataclass(frozen=True)
class Failed:
    """A run that ended with an error.

    Attributes:
        message: the error, one line.
    """

    message: str


Result = Trained | Played | Failed


class Records:
    """The runs of a benchmark, kept in a file.

    Args:
        path: the file; it is read if it exists.
        facts: what all runs share, such as the number of steps by task, by kind.
        again: optimizers to measure again: their runs and their facts are dropped.

    Raises:
        ValueError: the file is no such record, or its facts are others.
    """

    def __init__(
        self, path: Path, facts: Mapping[str, Mapping[str, Any]], again: Collection[str] = ()
    ) -> None:
        self.path = path
        self.facts: dict[str, dict[str, Any]] = json.loads(json.dumps(facts))
        self._results: dict[RunKey, Result] = {}
        if path.exists():
            self._read(again)

    def get(self, key: RunKey) -> Result | None:
        """The result of a run; None if it was not run."""
        return self._results.get(key)

    def items(self) -> list[tuple[RunKey, Result]]:
        """All runs, in the order in which they ended."""
        return list(self._results.items())

    def add(self, key: RunKey, result: Result) -> None:
        """Keep a run, and write the file anew, completely or not at all.

        The rounded numbers of the file are kept, so that an interrupted benchmark ends with the
        same tables.
        """
        self._results[key] = _from_json(_as_json(key, result))[1]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(_as_json(*item)) for item in self._results.items())
        head = json.dumps({"format": FORMAT, "facts": self.facts})[:-1]
        write_atomically(self.path, f'{head}, "runs": [\n{lines}\n]}}\n'.encode())

    def _read(self, again: Collection[str]) -> None:
        try:
            data = json.loads(self.path.read_text())
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']!r}, this version reads {FORMAT}")
            facts = {name: dict(values) for name, values in data["facts"].items()}
            results = dict(_from_json(run) for run in data["runs"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.path} is no record of a benchmark: {error}") from error
        for name, value in self.facts.items():
            for part in value.keys() - set(again):
                if part in facts.get(name, {}) and facts[name][part] != value[part]:
                    raise ValueError(
                        f"{self.path} was measured with another {name} {part!r}: "
                        f"{facts[name][part]} there, {value[part]} here; choose another --out"
                    )
        self.facts = {
            name: {**facts.get(name, {}), **self.facts.get(name, {})}
            for name in {**facts, **self.facts}
        }
        self._results = {
            key: result for key, result in results.items() if key.optimizer not in again
        }


def _as_json(key: RunKey, result: Result) -> dict[str, Any]:
    run: dict[str, Any] = {
        "task": key.task,
        "optimizer": key.optimizer,
        "setting": dict(key.setting),
        "seed": key.seed,
        "told": key.told,
    }
    if isinstance(result, Failed):
        return {**run, "failed": result.message}
    if isinstance(result, Played):
        return {**run, "figure": _short(result.figure), "works": result.works}
    losses = result.losses
    if key.seed == TUNING_SEED and not result.diverged:
        losses = (losses[0], losses[-1])  # the curves of trials are not shown
    return {
        **run,
        "losses": [_short(loss) for loss in losses],
        "error": _short(result.error),
        "seconds": round(result.seconds, 3),
        "step_seconds": round(result.step_seconds, 3),
        "state": round(result.state, 2),
        "parameters": result.parameters,
        "diverged": result.diverged,
    }


def _from_json(run: Mapping[str, Any]) -> tuple[RunKey, Result]:
    key = run_key(run["task"], run["optimizer"], run["setting"], run["seed"], told=run["told"])
    if "failed" in run:
        return key, Failed(str(run["failed"]))
    if "works" in run:
        return key, Played(_long(run["figure"]), bool(run["works"]))
    losses = tuple(_long(loss) for loss in run["losses"])
    if not losses:
        raise ValueError(f"a run of {key.optimizer} on {key.task} has no losses")
    return key, Trained(
        losses=losses,
        error=_long(run["error"]),
        seconds=float(run["seconds"]),
        step_seconds=float(run["step_seconds"]),
        state=float(run["state"]),
        parameters=int(run["parameters"]),
        diverged=bool(run["diverged"]),
    )


def _short(value: float) -> float | None:
    """Five digits; JSON has no infinity."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _long(value: float | None) -> float:
    return math.inf if value is None else float(value)
