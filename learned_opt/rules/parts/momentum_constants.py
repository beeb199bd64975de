"""The constants of orthogonalised momentum. Meta-training can move those in the tuples."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from torch import Tensor

Number: TypeAlias = float | Tensor
"""A number, or a 0-dim tensor where it is a meta-parameter."""


RMS_FLOOR = 0.01
"""The smallest RMS of a tensor that steps are relative to, for tensors that begin at zero."""

RMS_USUAL = 0.1
"""The RMS at which the step has the size that the learning rate says."""

SIZE_BETA = 0.99
"""Decay of the running mean of the gradient's RMS."""


class PaceConstants(NamedTuple):
    """Constants of the pace; see `pace.py`.

    Attributes:
        rise: change of the pace over one unit of the logarithm of the step number, for each unit
            of the cosine above `noise`.
        fall: the same for each unit below 0.
        noise: cosines from 0 to this lengthen no step: noise has some of them by chance, and small
            batches when they recover from a step that was too long.
        fastest_matrix: the largest pace of a matrix.
        fastest_vector: the largest pace of a vector. At 0 its steps are never longer than without
            a pace.
    """

    rise: Number = 0.9
    fall: Number = 0.6
    noise: Number = 0.2
    fastest_matrix: Number = 1.0
    fastest_vector: Number = 0.0


class MomentumConstants(NamedTuple):
    """Constants of the step; see `OrthogonalMomentum`.

    Attributes:
        matrix_step: factor on the steps of matrices.
        vector_step: factor on the steps of vectors.
        momentum: decay of the momentum of matrices.
        first_beta: decay of Adam's first moment, for vectors and scalars.
        second_beta: decay of Adam's second moment.
        warm_up: steps over which the step grows.
        decay_after: steps after which the schedule begins to fall.
        decay_power: the schedule falls as this power of 1 / t; half of it where the number of steps
            is planned, since a linear decay to zero comes on top.
        averaging: the average weighs the point after t steps by about t to this power.
        pace: constants of the pace.
    """

    matrix_step: Number = 1.0
    vector_step: Number = 1.0
    momentum: Number = 0.8
    first_beta: Number = 0.9
    second_beta: Number = 0.99
    warm_up: Number = 20.0
    decay_after: Number = 50.0
    decay_power: Number = 0.5
    averaging: Number = 8.0
    pace: PaceConstants = PaceConstants()

    def schedule(self, step: Tensor, total_steps: Tensor | None) -> Tensor:
        """The factor on the step at a number of steps, from 1; 0-dim."""
        late = 1 + step / self.decay_after
        if total_steps is None:
            return (step / self.warm_up).clamp(max=1) * late**-self.decay_power
        planned = total_steps.to(step.dtype)
        warm_up = (step / (0.03 * planned).clamp(min=1)).clamp(max=1)
        left = (1 - (step - 1) / planned).clamp(min=0.01)
        return warm_up * left * late ** (-self.decay_power / 2)


USUAL = MomentumConstants()
"""The constants of the default."""
