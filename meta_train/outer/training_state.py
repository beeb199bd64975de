"""Gathers the state of a meta-training from all processes, and restores it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from learned_opt.files import one_line
from meta_train.inner.meta_parameters import MetaParameters
from meta_train.inner.runs.groups import Groups
from meta_train.outer.checkpoint import TrainingState, join_parts, split_parts
from meta_train.outer.meta_optimizer import MetaOptimizer
from meta_train.outer.model_selection import ModelSelection
from meta_train.runtime.distributed import DistributedContext


@dataclass(frozen=True)
class Counters:
    """The progress of a meta-training.

    Attributes:
        outer_step: outer steps taken.
        seconds: duration so far, resumed runs included.
        diverged: inner runs that diverged so far.
    """

    outer_step: int
    seconds: float
    diverged: int


@dataclass(frozen=True)
class StatefulParts:
    """The parts of a meta-training that have state.

    The state consists of the meta-parameters, their average and the best average, the
    meta-optimizer, every inner run with its optimizer state and restart buffer, and counters. There
    is no random generator in it: every draw has its own, seeded by its purpose
    (`meta_train.runtime.seeding`). Beside it stands the C library that computed it.
    """

    meta_parameters: MetaParameters
    meta_optimizer: MetaOptimizer
    selection: ModelSelection
    groups: Groups
    distributed: DistributedContext
    c_library: str

    def save(self, counters: Counters) -> TrainingState:
        """The state, on the CPU for inner runs. All processes must call it.

        Returns:
            The state of all processes in the first one; other processes lack the inner runs of the
            rest.
        """
        runs, run_facts = self.groups.state_dict()
        own = {name: tensor.cpu() for name, tensor in runs.items()}, run_facts
        gathered = self.distributed.gather(own) or [own]
        inner = {name: value for part, _ in gathered for name, value in part.items()}
        all_runs = {name: fact for _, facts in gathered for name, fact in facts["runs"].items()}
        facts: dict[str, Any] = {
            **asdict(counters),
            "c_library": self.c_library,
            "model_selection": self.selection.state_dict()[1],
            "meta_optimizer": self.meta_optimizer.state_dict()[1],
            "groups": {**run_facts, "runs": all_runs},
        }
        return TrainingState({**self._outer_tensors(), **join_parts({"inner": inner})}, facts)

    def load(self, state: TrainingState) -> Counters:
        """Restore a state that `save` returned in the first of any number of processes."""
        parts, facts = split_parts(state.tensors), state.facts
        self.meta_parameters.load_state_dict(parts["meta_parameters"])
        self.meta_optimizer.load_state_dict(parts["meta_optimizer"], facts["meta_optimizer"])
        self.selection.load_state_dict(parts["best"], facts["model_selection"])
        self.groups.load_state_dict(parts.get("inner", {}), facts["groups"])
        return Counters(facts["outer_step"], facts["seconds"], facts["diverged"])

    def load_or_explain(self, state: TrainingState) -> Counters | str:
        """Load a state; why it is damaged, if it is. Files of early versions have no digest.

        Raises:
            ValueError: the state fits other settings.
        """
        try:
            counters = self.load(state)
        except (KeyError, IndexError, TypeError, RuntimeError, AttributeError) as error:
            return one_line(error)
        inner, facts = self.groups.state_dict()
        own = {*self._outer_tensors(), *join_parts({"inner": inner})}
        others = tuple(
            f"inner/{run}/" for run in state.facts["groups"]["runs"].keys() - facts["runs"]
        )
        wrong = {name for name in own ^ state.tensors.keys() if not name.startswith(others)}
        return f"tensor {min(wrong)!r} is missing or does not belong there" if wrong else counters

    def _outer_tensors(self) -> dict[str, Tensor]:
        """The tensors of the state without those of the inner runs."""
        return join_parts(
            {
                "meta_parameters": self.meta_parameters.state_dict(),
                "best": self.selection.state_dict()[0],
                "meta_optimizer": self.meta_optimizer.state_dict()[0],
            }
        )
