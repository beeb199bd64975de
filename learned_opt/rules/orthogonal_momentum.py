"""Orthogonalised momentum with a step relative to the weights, and a running average to evaluate.

The direction of a matrix is Muon's (Jordan et al. 2024, "Muon: an optimizer for hidden layers in
neural networks"), of a vector Adam's. The step is in proportion to the root of the tensor's RMS,
the schedule needs no planned number of steps, and the weights are evaluated at a running average,
as in Schedule-Free (Defazio et al. 2024, arXiv 2405.15682).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from learned_opt.rules.base import Context, State, UpdateRule
from learned_opt.rules.parts.features import (
    bias_correction,
    moving_average,
    moving_square,
    safe_sqrt,
)
from learned_opt.rules.parts.momentum_constants import (
    RMS_FLOOR,
    RMS_USUAL,
    SIZE_BETA,
    USUAL,
    MomentumConstants,
    Number,
)
from learned_opt.rules.parts.orthogonalize import is_matrix_shape, orthogonal_directions
from learned_opt.rules.parts.pace import cosine_from_lengths, next_pace
from learned_opt.rules.parts.whole_tensors import LOCAL, WholeTensors, one_where_zero

VECTOR_FLOOR = 0.03
"""Adam's direction is divided by its RMS, or by this where that is smaller: a vector in which one
coordinate of a thousand has gradients must not move that one by thirty times the step."""

FADE = 0.1
"""Momentum that is shorter than this share of the usual gradient shortens the step."""

TINY = 1e-30


class OrthogonalMomentum(UpdateRule):
    """Orthogonalised momentum for matrices, Adam's direction for vectors.

    For a matrix, or a kernel `[out, in, ...]` as the matrix `[out, in * ...]`, with gradient g::

        m <- b m + (1 - b) g
        u = orthogonal(b m + (1 - b) g) * direction_scale(shape)

    orthogonal(M) brings all singular values of M near 1 by Newton-Schulz iterations, which need
    matrix products only. The scale is the root of the longer side, so that u has an RMS of about 1;
    it is less above a width of 96, see `direction_scale`. For a vector, a scalar, a
    matrix of one row or column, and the table of a vocabulary (`is_matrix_shape`), u is Adam's
    direction over max(its RMS, 0.03). Then, at step t::

        delta = -schedule(t) * exp(a) * sqrt(max(RMS(p), 0.01) / 0.1) * fade * u
        schedule(t) = min(1, t / 20) / sqrt(1 + t / 50)
        a <- clamp(a + (0.9 max(c - 0.2, 0) + 0.6 min(c, 0)) / (t + 10), -3, largest)
        largest = clamp((0.2 - RMS(p - average) / max(RMS(p), 0.01)) / 0.05, 0, 1)
        average <- (1 - w) average + w p,   w = 9 / (t + 8)

    Evaluate the model at the average: `LearnedOptimizer.eval()` swaps it in, `train()` out. With a
    planned number of steps T the parameters themselves end where they should be evaluated, by::

        schedule(t) = min(1, t / (0.03 T)) * max(1 - (t - 1) / T, 0.01) / (1 + t / 50)^(1/4)

    A complex tensor is stepped as its real numbers, `[*param, 2]`: a vector as a matrix of two
    columns. A parameter group with `direction="adam"` has all of its tensors stepped like vectors.

    c is the cosine of g and the m before this step. a, the pace of a tensor, begins at 0. It rises
    while gradients keep their direction, falls where they turn back at every step, and stays where
    they are noise; see `parts/pace.py`. It lengthens no step of a matrix that runs far from its
    average: the matrices of two networks that chase each other do. A vector's is at most 0.
    Momentum 0 leaves a matrix's at 0.

    `fade` is 1 in ordinary training. Where a tensor gets no gradient any more it goes to 0 with the
    momentum; the orthogonal matrix alone would not, since it has no length.

    The state of a tensor, besides `step`: `m` and `average`, `[*param]`; `v`, `[*param]` for a
    vector and `[0]` for a matrix; `scalars`, `[3]`: the running mean of the gradient's RMS, the
    number of the last step that is in the average, and the pace.

    Args:
        momentum: b, in [0, 1).
        iterations: Newton-Schulz iterations, at least 1; see `orthogonalize`.
        warm_up: steps over which the step grows, without a planned number of steps.
        decay_after: steps after which the inverse-root schedule begins to fall.

    Raises:
        ValueError: an argument out of range.

    Examples:
        >>> rule = create_rule("orthogonal-momentum")
        >>> optimizer = LearnedOptimizer(model.parameters(), rule=rule)
        >>> groups = [
        ...     {"params": [model.weight]},
        ...     {"params": [model.bias], "direction": "adam"},
        ... ]
        >>> optimizer = LearnedOptimizer(groups, rule=rule)
    """

    default_lr = 6.8e-3
    averages = True
    uses = frozenset({"total_steps"})
    directions = ("adam",)
    takes_parts = True
    tensor_state = frozenset({"scalars"})

    def __init__(
        self,
        *,
        momentum: float = 0.8,
        iterations: int = 4,
        warm_up: float = 20.0,
        decay_after: float = 50.0,
    ) -> None:
        super().__init__(
            momentum=momentum, iterations=iterations, warm_up=warm_up, decay_after=decay_after
        )
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        if not 1 <= iterations <= 100:
            raise ValueError(f"iterations must be from 1 to 100, got {iterations}")
        for name, value in (("warm_up", warm_up), ("decay_after", decay_after)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        self.iterations = iterations
        self._constants = USUAL._replace(
            momentum=momentum, warm_up=warm_up, decay_after=decay_after
        )

    def init_tensor_state(self, parameter: Tensor) -> State:
        """The average begins at the parameter, all else at zero; see the class."""
        return self.init_part_state(parameter, parameter.shape, None, LOCAL)

    def init_part_state(
        self,
        parameter: Tensor,
        shape: Sequence[int],
        direction: str | None,
        tensors: WholeTensors,
    ) -> State:
        """See `init_tensor_state`; whether the tensor is a matrix depends on its whole shape."""
        matrix = is_matrix_shape(shape) and direction != "adam"

        def zeros(*shape: int, dtype: torch.dtype = self.dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=parameter.device)

        return {
            "m": zeros(*parameter.shape),
            "v": zeros(0) if matrix else zeros(*parameter.shape),
            # A late step changes the average by less than half precision can tell.
            "average": parameter.detach().to(self.wide_dtype, copy=True),
            "scalars": zeros(3, dtype=self.wide_dtype),
        }

    def state_bytes_per_parameter(self) -> int:
        """Bytes of state that one coordinate of a matrix costs; of a vector, half as much again."""
        return self.dtype.itemsize + self.wide_dtype.itemsize

    @property
    def constants(self) -> MomentumConstants:
        """The constants of the settings; read-only, because files hold the settings alone."""
        return self._constants

    def update(
        self,
        gradients: Sequence[Tensor],
        parameters: Sequence[Tensor],
        states: Sequence[State],
        context: Context,
    ) -> tuple[list[Tensor], list[State]]:
        """See the class."""
        return self.update_with(self.constants, gradients, parameters, states, context)

    def update_with(
        self,
        constants: MomentumConstants,
        gradients: Sequence[Tensor],
        parameters: Sequence[Tensor],
        states: Sequence[State],
        context: Context,
    ) -> tuple[list[Tensor], list[State]]:
        """`update` with other constants than the rule's own."""
        momentum, beta = constants.momentum, constants.first_beta
        numbered = list(enumerate(zip(gradients, parameters, states, strict=True)))
        matrices = {k for k, (_, p, state) in numbered if is_stepped_as_matrix(p, state)}
        whole = context.tensors or LOCAL
        sizes = whole.rms(dict(enumerate(gradients)))
        lengths = whole.rms(dict(enumerate(parameters)))
        momenta = whole.rms({k: state["m"] for k, state in enumerate(states)})
        lookahead: dict[int, Tensor] = {}
        new_states: list[State] = []
        counts: list[tuple[Tensor, Tensor]] = []
        for k, (gradient, parameter, state) in numbered:
            new = {"step": state["step"], "v": state["v"]}
            if k in matrices:
                new["m"] = moving_average(state["m"], gradient, momentum)
                lookahead[k] = moving_average(new["m"], gradient, momentum)
            else:
                new["m"] = moving_average(state["m"], gradient, beta)
                new["v"] = moving_square(state["v"], gradient, constants.second_beta)
                lookahead[k] = new["m"]
            average, averaged = _with_point(
                parameter, state, state["step"] - 1, constants.averaging
            )
            new_states.append({**new, "average": average})
            size = moving_average(state["scalars"][0], sizes[k], SIZE_BETA)
            # A tensor that never had a gradient stays as it was made.
            counts.append((size, torch.where(size == 0, state["scalars"][1], averaged)))
        mixed = whole.rms(lookahead)
        distances = whole.rms(
            {k: parameters[k] - new_states[k]["average"] for k in sorted(matrices)}
        )
        for k, (new, (size, averaged)) in enumerate(zip(new_states, counts, strict=True)):
            matrix = k in matrices
            keep = momentum**2 if matrix else beta
            cosine = cosine_from_lengths(sizes[k], momenta[k], mixed[k], keep)
            pace = next_pace(
                states[k]["scalars"][2],
                cosine,
                new["step"],
                distance=distances[k] / lengths[k].clamp(min=RMS_FLOOR) if matrix else None,
                constants=constants.pace,
            )
            new["scalars"] = torch.stack([size, averaged, pace])
        directions = whole.transform(
            partial(orthogonal_directions, iterations=self.iterations),
            {k: lookahead[k] for k in sorted(matrices)},
        )
        directions |= _divided_by_rms(
            {
                k: adam_direction(state, constants)
                for k, state in enumerate(new_states)
                if k not in directions
            },
            whole,
        )
        fades = _fades(mixed, new_states)
        deltas = [
            -constants.schedule(state["step"], context.total_steps)
            * (constants.matrix_step if k in matrices else constants.vector_step)
            * state["scalars"][2].exp()
            * (lengths[k].clamp(min=RMS_FLOOR) / RMS_USUAL).sqrt()
            * fades[k]
            * directions[k]
            for k, state in enumerate(new_states)
        ]
        return deltas, new_states

    def kept_in_lookahead(self, matrix: bool) -> float:
        """The share of the old momentum in `lookahead`, which for a vector is the new momentum."""
        return self.momentum**2 if matrix else self.vector_betas[0]

    @property
    def momentum(self) -> float:
        """The decay of the momentum of matrices."""
        return float(self.constants.momentum)

    @property
    def vector_betas(self) -> tuple[float, float]:
        """Decays of Adam's two moments, for vectors and scalars."""
        return float(self.constants.first_beta), float(self.constants.second_beta)

    def schedule(self, step: Tensor, total_steps: Tensor | None) -> Tensor:
        """The factor on the step at a number of steps, from 1; 0-dim."""
        return self.constants.schedule(step, total_steps)

    def decay_factor(self, state: State, context: Context) -> Tensor:
        """The schedule: the weight decay falls with the steps."""
        return self.schedule(state["step"], context.total_steps)

    def evaluation_point(self, parameter: Tensor, state: State) -> tuple[Tensor, State]:
        """The average with the parameter as it is now in it, and the state that records that."""
        return self.evaluation_point_with(self.constants, parameter, state)

    def evaluation_point_with(
        self, constants: MomentumConstants, parameter: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """`evaluation_point` with other constants than the rule's own."""
        average, averaged = _with_point(
            parameter.to(self.wide_dtype), state, state["step"], constants.averaging
        )
        size, _, pace = state["scalars"].unbind()
        scalars = torch.stack([size, averaged, pace])
        return average, {**state, "average": average, "scalars": scalars}


def _with_point(
    parameter: Tensor, state: State, taken: Tensor, averaging: Number
) -> tuple[Tensor, Tensor]:
    """Put the parameter after `taken` steps into the average, unless it is there already."""
    averaged = state["scalars"][1]
    weight = torch.where(taken > averaged, (averaging + 1) / (taken + averaging), 0.0)
    return torch.lerp(state["average"], parameter, weight), torch.maximum(taken, averaged)


def is_stepped_as_matrix(parameter: Tensor, state: State) -> bool:
    """By its state: of a sharded tensor, the part alone does not tell."""
    return parameter.dim() > 1 and state["v"].dim() == 1


def adam_direction(state: State, constants: MomentumConstants = USUAL) -> Tensor:
    """Adam's direction from its two moments; 0 where there was no gradient yet."""
    b1, b2 = constants.first_beta, constants.second_beta
    m_hat = state["m"] / bias_correction(state["step"], b1)
    root = safe_sqrt(state["v"]) / bias_correction(state["step"], b2).sqrt()
    return torch.where(root == 0, 0.0, m_hat / one_where_zero(root))


def _divided_by_rms(directions: dict[int, Tensor], whole: WholeTensors) -> dict[int, Tensor]:
    sizes = whole.rms(directions)
    return {k: one / sizes[k].clamp(min=VECTOR_FLOOR) for k, one in directions.items()}


def _fades(lengths: Mapping[int, Tensor], states: Sequence[State]) -> list[Tensor]:
    """1 where the momentum has its usual length, less where it dies without gradients; 0-dim."""
    usual = [state["scalars"][0] / bias_correction(state["step"], SIZE_BETA) for state in states]
    return [
        (lengths[k] / (FADE * size).clamp(min=TINY)).clamp(max=1) for k, size in enumerate(usual)
    ]
