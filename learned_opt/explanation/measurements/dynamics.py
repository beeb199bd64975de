"""Panel 5: the state: its path in a training, its fixed points, its eigenvalues.

After Maheswaranathan et al. 2021, "Reverse engineering learned optimizers reveals known and novel
mechanisms" (arXiv 2011.02159), who read an optimizer as a dynamical system.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learned_opt.explanation.measurements.probe import SPREAD, Probe, make_context
from learned_opt.explanation.measurements.trainings import TrainingStep
from learned_opt.rules.base import State, UpdateRule

STEP = 200.0
"""The number of the step in which the rule is linearised; it is held."""

ITERATIONS = 500
"""Steps from a fresh state towards the fixed point, before Newton's method."""

SHAPE = (4, 4)
"""The tensor of a rule of whole tensors that is linearised."""

UNSEEN = 1e-6
"""Modes that move the update by less than this share of the largest are left out."""

DRIFT = 1e-3
"""A step that changes the state by more than this share is said to leave no fixed point."""

UNITS = 24
"""Coordinates, or tensors, whose states are followed."""

STEADY = (-3.0, -1.0, -0.3, -0.1, -0.01, 0.01, 0.1, 0.3, 1.0, 3.0)
"""Constant gradients, in typical ones, whose fixed points are drawn."""


@dataclass(frozen=True)
class Modes:
    """The rule linearised at the fixed point under a constant gradient of the typical size.

    Attributes:
        eigenvalues: (real, imaginary) of the modes of the state that reach the update, the slowest
            first; equal ones once.
        state_size: numbers in the state of a coordinate, or of the tensor that is linearised.
        residual: relative change of the state by a step at that point.
    """

    eigenvalues: tuple[tuple[float, float], ...]
    state_size: int
    residual: float

    @property
    def slowest(self) -> float:
        """The largest modulus of an eigenvalue, 0 without any."""
        return math.hypot(*self.eigenvalues[0]) if self.eigenvalues else 0.0

    def sentence(self) -> str:
        """Describes the measurement."""
        if not self.state_size:
            return "It keeps no state: an update depends on the present gradient alone."
        if not self.eigenvalues:
            return "Its state does not reach the next update at the fixed point."
        turning = [one for one in self.eigenvalues if _turns(*one)]
        count = len(self.eigenvalues)
        if self.slowest < 0.9999:
            text = f"Its longest memory fades to 1/e in {_steps(self.slowest)} steps"
        elif self.slowest < 1.0001:
            text = "A part of its state never fades"
        else:
            text = "A part of its state grows at every step"
        text += f" (|λ| = {self.slowest:.4g}"
        text += f", the largest of {count} eigenvalues)" if count > 1 else ")"
        if turning:
            angle = math.atan2(turning[0][1], turning[0][0])
            text += f"; a pair of them turns the state once in {2 * math.pi / angle:.0f} steps"
        if self.residual > DRIFT:
            text += "; under a constant gradient it drifts, and reaches no fixed point"
        return f"{text}."


def _turns(real: float, imaginary: float) -> bool:
    """Whether a mode turns by a radian or more before it is e times smaller."""
    modulus = math.hypot(real, imaginary)
    return 0.5 < modulus < 1 and math.atan2(imaginary, real) > -math.log(modulus)


def _steps(modulus: float) -> str:
    """Steps until a mode is e times smaller."""
    if modulus == 0:
        return "0"
    steps = -1 / math.log(modulus)
    return f"{steps:.0f}" if steps >= 10 else f"{steps:.2g}"


@dataclass(frozen=True)
class StatePath:
    """States along a training, in the plane of their first two principal components.

    Each number is divided by its standard deviation first.

    Attributes:
        what: the unit that each line follows, "coordinate" or "tensor".
        paths: `[units][steps]` points (x, y); empty without state.
        fixed: points (x, y) where a constant gradient holds the state, by `STEADY`; empty for
            rules of whole tensors.
        variance: shares of the variance by component.
        size: numbers that vary.
        besides: names of state tensors that are left out: where the lines are tensors, those with a
            value for each coordinate.
    """

    what: str
    paths: tuple[tuple[tuple[float, float], ...], ...]
    fixed: tuple[tuple[float, float], ...]
    variance: tuple[float, ...]
    size: int
    besides: tuple[str, ...] = ()

    def sentence(self) -> str:
        """Describes the measurement."""
        if not self.size:
            return ""
        start = f"Each {self.what}"
        if self.besides:
            *others, last = self.besides
            names = f"{', '.join(others)} and {last}" if others else last
            start = f"Besides {names}, each {self.what}"
        if self.size <= 2:
            return f"{start} keeps {'one number' if self.size == 1 else 'two numbers'}."
        held, total = 0, 0.0
        while total < 0.9 and held < len(self.variance):
            total += self.variance[held]
            held += 1
        plural = "direction holds" if held == 1 else "directions hold"
        return f"{start} keeps {self.size} numbers; {held} {plural} 90% of their variance."


class StateMap:
    """One step of a rule as a map of a flat state, with gradient, parameter and step held.

    Args:
        rule: the update rule; a copy in float64 is used.
        gradient: constant, `[*param]`.
        parameter: held, `[*param]`.
    """

    def __init__(self, rule: UpdateRule, gradient: Tensor, parameter: Tensor) -> None:
        self.rule = copy.deepcopy(rule).to(torch.float64).requires_grad_(False)
        self.gradient, self.parameter = gradient.double(), parameter.double()
        self.context = make_context(self.rule, None, 1.0)
        start = self.rule.init_state(self.parameter)
        self.shapes = {key: value.shape for key, value in start.items() if key != "step"}
        self.start = self.flatten(start)

    def flatten(self, state: State) -> Tensor:
        """A state without `step` as a vector."""
        parts = [state[key].reshape(-1) for key in self.shapes]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)

    def __call__(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """The delta and the next state, both flat."""
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = zip(self.shapes.items(), flat.split(sizes) if sizes else (), strict=True)
        state = {key: part.reshape(shape) for (key, shape), part in parts}
        state["step"] = torch.tensor(STEP - 1, dtype=torch.float64)
        (delta,), (after,) = self.rule([self.gradient], [self.parameter], [state], self.context)
        return delta.reshape(-1), self.flatten(after)

    def jacobian(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of delta and next state by the state, `[m, n]` and `[n, n]`."""
        flat = flat.detach().requires_grad_()
        with torch.enable_grad():
            delta, after = self(flat)
            rows = []
            for value in (*delta, *after):
                if value.requires_grad:
                    row = torch.autograd.grad(
                        value, flat, retain_graph=True, allow_unused=True, materialize_grads=True
                    )[0]
                else:
                    row = torch.zeros_like(flat)
                rows.append(row.detach())
        joined = torch.stack(rows)
        return joined[: len(delta)], joined[len(delta) :]

    def fixed_point(self) -> tuple[Tensor, float]:
        """Iterate, then take Newton steps as long as they help.

        Returns:
            The state, and the relative change that a step makes of it.
        """
        flat = self.start
        with torch.no_grad():
            for _ in range(ITERATIONS):
                flat = self(flat)[1]
            change = self(flat)[1] - flat
        for _ in range(5):
            identity = torch.eye(len(flat), dtype=torch.float64)
            move = torch.linalg.pinv(identity - self.jacobian(flat)[1]) @ change
            with torch.no_grad():
                new_change = self(flat + move)[1] - (flat + move)
            if not new_change.norm() < 0.5 * change.norm():
                break
            flat, change = flat + move, new_change
        return flat, (change.norm() / flat.norm().clamp(min=1e-300)).item()


def measure_modes(rule: UpdateRule, typical: float) -> Modes:
    """Linearise a rule at its fixed point under a constant gradient of the typical size."""
    alone = Probe(rule).alone
    generator = torch.Generator().manual_seed(7)
    shape = (1,) if alone else SHAPE
    draws = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    gradient = torch.full(shape, typical) if alone else typical * draws[0]
    parameter = torch.zeros(shape) if alone else SPREAD * draws[1]
    state_map = StateMap(rule, gradient, parameter)
    if not len(state_map.start):
        return Modes((), 0, 0.0)
    flat, residual = state_map.fixed_point()
    by_delta, by_state = state_map.jacobian(flat)
    # In units of the fixed point, lest the modes of small numbers count as unseen.
    scale = torch.where(flat == 0, 1.0, flat.abs())
    values, vectors = torch.linalg.eig(by_state / scale.unsqueeze(-1) * scale)
    seen = ((by_delta * scale).to(vectors.dtype) @ vectors).norm(dim=0)
    visible = values[seen > UNSEEN * seen.max()] if seen.max() > 0 else values[:0]
    distinct = {(round(v.real.item(), 6), round(v.imag.item(), 6)) for v in visible}
    ordered = sorted(distinct, key=lambda one: (-math.hypot(*one), -one[1]))
    moving = [one for one in ordered if math.hypot(*one) > 1e-6]
    return Modes(tuple(moving), len(flat), residual)


def measure_path(rule: UpdateRule, steps: Sequence[TrainingStep], typical: float) -> StatePath:
    """Follow the states of a training.

    The lines are coordinates, drawn at random from the matrices. They are tensors where the rule
    keeps more numbers of a tensor as a whole than of a coordinate.
    """
    first = steps[0]
    matrices = [k for k, parameter in enumerate(first.parameters) if parameter.dim() > 1]
    own = {
        key: value.shape[first.parameters[matrices[0]].dim() :]
        for key, value in first.states[matrices[0]].items()
        if key != "step" and value.shape[:2] == first.parameters[matrices[0]].shape[:2]
    }
    small = sorted(first.states[matrices[0]].keys() - own.keys() - {"step"})
    small = [key for key in small if first.states[matrices[0]][key].numel()]
    shared = sum(first.states[matrices[0]][key].numel() for key in small)
    if shared > sum(math.prod(shape) for shape in own.values()):
        table = torch.stack(
            [
                torch.stack([torch.cat([s[key].reshape(-1) for key in small]) for s in one])
                for one in (step.new_states for step in steps)
            ]
        )
        return replace(_components("tensor", table.double(), None), besides=tuple(own))
    if not own:
        return StatePath("coordinate", (), (), (), 0)
    table = torch.stack([_coordinates(step.new_states, first.parameters, own) for step in steps])
    fixed = None
    if Probe(rule).alone:
        points = [
            StateMap(rule, torch.tensor([factor * typical]), torch.zeros(1)).fixed_point()[0]
            for factor in STEADY
        ]
        fixed = torch.stack(points)
    return _components("coordinate", table.double(), fixed)


def _coordinates(states: list[State], parameters: list[Tensor], own: Iterable[str]) -> Tensor:
    """States of `UNITS` coordinates spread over all matrices, `[UNITS, numbers]`."""
    rows = []
    for state, parameter in zip(states, parameters, strict=True):
        if parameter.dim() > 1:
            size = parameter.numel()
            rows.append(torch.cat([state[key].reshape(size, -1) for key in own], dim=-1))
    joined = torch.cat(rows)
    places = torch.randperm(len(joined), generator=torch.Generator().manual_seed(0))[:UNITS]
    return joined[places]


def _components(what: str, table: Tensor, fixed: Tensor | None) -> StatePath:
    """Principal components of states `[steps, units, numbers]`."""
    flat = table.flatten(0, 1)
    spread = flat.std(0)
    kept = spread > 1e-12 * flat.abs().amax(0).clamp(min=1e-300)
    mean, spread = flat.mean(0)[kept], spread[kept]
    size = int(kept.sum())
    if not size:
        return StatePath(what, (), (), (), 0)
    unit = (flat[:, kept] - mean) / spread
    _, singular, axes = torch.linalg.svd(unit, full_matrices=False)
    variance = singular.square() / singular.square().sum()
    plane = torch.zeros(size, 2, dtype=torch.float64)
    plane[:, : min(size, 2)] = axes[:2].T
    points = (unit @ plane).reshape(*table.shape[:2], 2).transpose(0, 1)
    held = () if fixed is None else _pairs((fixed[:, kept] - mean) / spread @ plane)
    return StatePath(what, tuple(map(_pairs, points)), held, tuple(variance.tolist()), size)


def _pairs(points: Tensor) -> tuple[tuple[float, float], ...]:
    return tuple((x, y) for x, y in points.tolist())
