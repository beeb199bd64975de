"""Orthogonalised momentum whose constants are meta-parameters: how the default's can be learned.

    python benchmarks/quality/learned_constants.py --out runs/constants

meta-trains them with evolution strategies as `constants.yaml` beside this file says, on families of
small networks, and writes them to `constants.json` in the folder at the end. The same line
continues a run that was stopped. `varied.py` compares constants with the default's on other tasks.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import MappingProxyType

import torch
import yaml
from torch import Tensor, nn

from learned_opt.files import write_atomically
from learned_opt.rules.base import Context, State, UpdateRule
from learned_opt.rules.orthogonal_momentum import OrthogonalMomentum
from learned_opt.rules.parts.momentum_constants import (
    USUAL,
    MomentumConstants,
    Number,
    PaceConstants,
)
from learned_opt.rules.parts.whole_tensors import LOCAL, WholeTensors
from meta_train import MetaTrainer, TrainSettings, create_task
from meta_train.runtime.signals import Interrupted


class Kind(Enum):
    """How a shift s, 0 before training, changes a constant c."""

    FACTOR = "c exp(s)"
    DECAY = "c / (c + (1 - c) exp(s))"
    TERM = "c + s"


LEARNED: Mapping[str, tuple[Kind, float]] = MappingProxyType(
    {
        "matrix_step": (Kind.FACTOR, 1.0),
        "vector_step": (Kind.FACTOR, 2.0),
        "momentum": (Kind.DECAY, 2.0),
        "first_beta": (Kind.DECAY, 3.0),
        "second_beta": (Kind.DECAY, 3.0),
        "warm_up": (Kind.FACTOR, 4.0),
        "decay_after": (Kind.FACTOR, 3.0),
        "decay_power": (Kind.FACTOR, 1.0),
        "averaging": (Kind.FACTOR, 2.0),
        "pace.rise": (Kind.FACTOR, 3.0),
        "pace.fall": (Kind.FACTOR, 3.0),
        "pace.noise": (Kind.FACTOR, 3.0),
        "pace.fastest_matrix": (Kind.TERM, 2.0),
        "pace.fastest_vector": (Kind.TERM, 2.0),
    }
)
"""Of each constant, how a shift changes it, and the shift of a meta-parameter of 1: larger where
the constant matters less, so that equal perturbations of all have about equal effects."""


class LearnedConstants(UpdateRule):
    """Orthogonalised momentum with fourteen learned constants and no network.

    The step and the state are those of `OrthogonalMomentum`. The meta-parameters shift the
    logarithm of its constants, or of the odds of a decay; see `LEARNED`. Before training they are 0
    and the rule equals `OrthogonalMomentum` up to rounding.

    While a population of perturbed rules is meta-trained, the last point enters the average that a
    run is judged at with the weight of the unperturbed rule.

    Examples:
        >>> rule = LearnedConstants()
        >>> round(float(rule.constants().momentum), 3)
        0.8
    """

    default_lr = OrthogonalMomentum.default_lr
    averages = True
    uses = OrthogonalMomentum.uses
    directions = OrthogonalMomentum.directions
    takes_parts = True
    tensor_state = OrthogonalMomentum.tensor_state

    def __init__(self) -> None:
        super().__init__()
        self.base = OrthogonalMomentum()
        self.shifts = nn.Parameter(torch.zeros(len(LEARNED), dtype=torch.float32))

    def constants(self) -> MomentumConstants:
        """The constants as the meta-parameters make them, 0-dim tensors."""
        usual = as_json(USUAL)
        shifts = self.shifts.to(self.wide_dtype).unbind()
        return _by_name(
            {
                name: _shifted(usual[name], kind, unit * shift)
                for (name, (kind, unit)), shift in zip(LEARNED.items(), shifts, strict=True)
            }
        )

    def init_tensor_state(self, parameter: Tensor) -> State:
        """See `OrthogonalMomentum`."""
        return self.init_part_state(parameter, parameter.shape, None, LOCAL)

    def init_part_state(
        self,
        parameter: Tensor,
        shape: Sequence[int],
        direction: str | None,
        tensors: WholeTensors,
    ) -> State:
        """See `OrthogonalMomentum`."""
        return self.base.init_part_state(parameter, shape, direction, tensors)

    def state_bytes_per_parameter(self) -> int:
        """See `OrthogonalMomentum`."""
        return self.base.state_bytes_per_parameter()

    def update(
        self,
        gradients: Sequence[Tensor],
        parameters: Sequence[Tensor],
        states: Sequence[State],
        context: Context,
    ) -> tuple[list[Tensor], list[State]]:
        """See the class."""
        return self.base.update_with(self.constants(), gradients, parameters, states, context)

    def decay_factor(self, state: State, context: Context) -> Tensor:
        """The schedule: the weight decay falls with the steps."""
        return self.constants().schedule(state["step"], context.total_steps)

    def evaluation_point(self, parameter: Tensor, state: State) -> tuple[Tensor, State]:
        """The average, with the parameter as it is now in it."""
        return self.base.evaluation_point_with(self.constants(), parameter, state)


def _shifted(usual: float, kind: Kind, shift: Tensor) -> Number:
    if kind is Kind.TERM:
        return usual + shift
    if kind is Kind.DECAY:
        return usual / (usual + (1 - usual) * shift.exp())
    return usual * shift.exp()


def _by_name(numbers: Mapping[str, Number]) -> MomentumConstants:
    """Constants from their names, those of the pace as "pace.NAME"."""
    pace = {k: numbers[f"pace.{k}"] for k in PaceConstants._fields}
    own = {k: numbers[k] for k in MomentumConstants._fields if k != "pace"}
    return MomentumConstants(**own, pace=PaceConstants(**pace))


def as_json(constants: MomentumConstants) -> dict[str, float]:
    """Constants by name, those of the pace as "pace.NAME"."""
    numbers = {k: v for k, v in constants._asdict().items() if k != "pace"}
    numbers |= {f"pace.{k}": v for k, v in constants.pace._asdict().items()}
    return {name: float(value) for name, value in numbers.items()}


def read_constants(path: Path, part: float = 1.0) -> MomentumConstants:
    """Constants of a file, or a part of the way to them from the default's."""
    numbers, usual = json.loads(path.read_text()), as_json(USUAL)
    return _by_name({k: usual[k] + part * (numbers[k] - usual[k]) for k in usual})


def tuples(value):
    """Lists of a YAML file as the tuples that settings want."""
    return tuple(tuples(part) for part in value) if isinstance(value, list) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("constants.yaml"))
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = yaml.safe_load(arguments.config.read_text())
    arguments.out.mkdir(parents=True, exist_ok=True)
    trainer = MetaTrainer(
        LearnedConstants(),
        create_task("mixture", **config["families"]),
        TrainSettings(**{name: tuples(value) for name, value in config["train"].items()}),
        folder=arguments.out,
        device="cpu",
    )
    trainer.resume()
    try:
        rule = trainer.train()
    except Interrupted as stop:
        raise SystemExit(f"{stop}; the same line continues it") from None
    with torch.no_grad():
        found = json.dumps(as_json(rule.constants()), indent=2) + "\n"
    write_atomically(arguments.out / "constants.json", found.encode())
    print(found)


if __name__ == "__main__":
    main()
