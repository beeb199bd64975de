"""Evaluation mode: swaps the running average of the weights in, and out again for training.

As in Schedule-Free (Defazio et al. 2024, arXiv 2405.15682): call `optimizer.eval()` before you
evaluate or save the model, and `optimizer.train()` before training goes on.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from learned_opt.backends.places import has_memory
from learned_opt.optimizer import sharding
from learned_opt.real_tensors import has_no_values
from learned_opt.rules.base import State, UpdateRule

MODE = "train_mode"
"""The option of a group: True while its parameters hold the weights to train on."""

TRAINING_VALUE = "training_value"
"""The key of a parameter's state for the value to train on, while the average is in its place."""

Groups = Iterable[dict[str, Any]]

FAR = 0.5
"""Parameters are far from their averages if the distance is above this share of the average's norm.

Weights that are loaded or drawn anew are; those that are clipped or normalised a little are not.
"""


class EvaluationMode:
    """Swaps the averages of an optimizer's parameters in and out.

    Weights that somebody else has written since, such as `model.load_state_dict`, are kept: the
    average begins anew at them. Writes that change weights a little after every step, such as a
    bound on their norm, are part of the training, and keep the averages. Writes through `.data` are
    not seen, as autograd does not see them; after a compiled step, only those are seen that change
    the weights much. For a rule that keeps no averages, it does nothing.

    Args:
        rule: the update rule.
    """

    def __init__(self, rule: UpdateRule) -> None:
        self._rule = rule
        self._versions: dict[Tensor, int] = {}
        self._bounded: set[Tensor] = set()
        """Those that somebody else changed a little before the last step."""
        self._was_compiled = False

    def note_step(self, groups: Groups) -> None:
        """Note which values the optimizer has written, to notice values that others write."""
        if not self._rule.averages:
            return
        self._was_compiled = torch.compiler.is_compiling()
        if self._was_compiled:
            self._versions = {}
        else:
            self._versions = {p: _version(p) for group in groups for p in group["params"]}

    def before_step(self, groups: Groups, states: Mapping[Tensor, Any]) -> None:
        """Begin averages anew at weights that somebody else has replaced since the last step.

        The steps to come would otherwise mix them with averages of the old weights. Weights that
        were only changed a little, as by a bound on their norm, keep their averages. Sharded
        weights are not looked at: their processes would have to agree in every step. Waits for an
        accelerator only where weights were changed, and never while a CUDA graph is captured.
        """
        if torch.compiler.is_compiling():
            return
        self._bounded = set()
        if not self._versions:
            return
        changed = [
            (parameter, states[parameter])
            for group in groups
            if group[MODE] and group["total_steps"] is None
            for parameter in group["params"]
            if self._versions.get(parameter, version := _version(parameter)) != version
            and states.get(parameter)
            and not sharding.is_sharded(parameter)
        ]
        if not changed:
            return
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return
        if _are_far(changed):
            for parameter, state in changed:
                self._restart(parameter, state)
            _warn("since the last step", "trained on", frames=6)
        else:
            self._bounded = {parameter for parameter, _ in changed}

    def forget_steps(self) -> None:
        """Take the weights as they are: a loaded state brings the average that belongs to them.

        Model and optimizer may be loaded in either order.
        """
        self._versions, self._bounded, self._was_compiled = {}, set(), False

    def evaluate(self, groups: Groups, states: Mapping[Tensor, Any]) -> None:
        """Put each parameter's average in its place, and keep the value to train on.

        Groups with a planned number of steps keep their parameters, which end where they should be.
        A parameter that was frozen while others trained on keeps its value: they were trained with
        that, not with its average.
        """
        if not self._rule.averages:
            return
        groups = list(groups)
        # All before any is written: views of one buffer share its count of changes, or its numbers.
        foreign = self._foreign(groups, states)
        self._keep_training_values(groups, states)
        told = False
        latest = max(
            (_steps(states.get(p)) for group in groups for p in group["params"]), default=0
        )
        for group in groups:
            if group[MODE] and group["total_steps"] is None:
                for parameter in group["params"]:
                    state = states.get(parameter)
                    if not state:
                        continue
                    if parameter in foreign:
                        told = True
                        self._restart(parameter, state)
                    elif _steps(state) == 0:  # `init_state` made it, maybe before a load
                        self._restart(parameter, state)
                    elif not parameter.requires_grad and _is_behind(_steps(state), latest):
                        self._restart(parameter, state)
                    self._use_average(parameter, state)
            group[MODE] = False
        self._versions = {p: _version(p) for group in groups for p in group["params"]}
        if told:
            _warn("since the last step", "evaluated")

    def _foreign(self, groups: Groups, states: Mapping[Tensor, Any]) -> set[Tensor]:
        """The parameters that somebody else has replaced since the last step."""
        averaged = [(p, states[p]) for p in _averaged(groups, states)]
        if self._was_compiled:  # and could not count changes
            return {parameter for parameter, _ in averaged} if _are_far(averaged) else set()
        changed = [
            (parameter, state)
            for parameter, state in averaged
            if self._versions.get(parameter, version := _version(parameter)) != version
        ]
        found = {parameter for parameter, _ in changed}
        return set() if found <= self._bounded and not _are_far(changed) else found

    def _keep_training_values(self, groups: Groups, states: Mapping[Tensor, Any]) -> None:
        for parameter in _averaged(groups, states):
            states[parameter][TRAINING_VALUE] = parameter.detach().clone()

    def train(self, groups: list[dict[str, Any]], states: Mapping[Tensor, Any]) -> None:
        """Put the values to train on back; bit for bit as they were.

        Does nothing in training mode, where some frameworks call it before every step.
        """
        if not self._rule.averages or all(group[MODE] for group in groups):
            return
        evaluated = [
            parameter
            for group in groups
            for parameter in group["params"]
            if TRAINING_VALUE in states.get(parameter, {})
        ]
        shared = _sharing(evaluated)
        untouched = [
            self._holds_average(p, states[p])
            or (p in shared and self._versions.get(p) == _version(p))
            for p in evaluated
        ]
        meshes = [sharding.device_mesh(parameter) for parameter in evaluated]
        if any(mesh is not None for mesh in meshes):
            # The processes that share a tensor agree whether it was changed.
            flags = torch.tensor(untouched, device="cpu")
            untouched = sharding.all_parts(flags, meshes).tolist()
        for parameter, own in zip(evaluated, untouched, strict=True):
            kept = states[parameter].pop(TRAINING_VALUE)
            if own:
                parameter.detach().copy_(kept)
            else:
                self._restart(parameter, states[parameter])
        for group in groups:
            group[MODE] = True
        if not all(untouched):
            _warn("in evaluation mode", "trained on")
        self.note_step(groups)

    def _holds_average(self, parameter: Tensor, state: State) -> bool:
        value = sharding.local_part(parameter.detach())
        if has_no_values(value):
            return True
        average = sharding.local_part(state["average"])
        return torch.equal(value, average.to(value.dtype))

    def _use_average(self, parameter: Tensor, state: State) -> None:
        # Not the parameter: one that shares its memory may have its average there already.
        value = sharding.local_part(state[TRAINING_VALUE])
        own = self._own(parameter, state)
        average, new = self._rule.evaluation_point(value, own)
        # What is infinite, as masks may be, has no average.
        new["average"] = torch.where(average.isfinite(), average, value.to(average.dtype))
        for key, tensor in own.items():
            tensor.copy_(new[key])
        sharding.local_part(parameter.detach()).copy_(new["average"])

    def _restart(self, parameter: Tensor, state: State) -> None:
        """Begin the average anew at the parameter as it is."""
        value = sharding.local_part(parameter.detach())
        for key, tensor in self._own(parameter, state).items():
            if key == "average":
                tensor.copy_(value)

    def _own(self, parameter: Tensor, state: State) -> State:
        """The local parts of the rule's own state, sharing its memory."""
        value = sharding.local_part(parameter.detach())
        keys = self._rule.init_state(torch.empty_like(value, device="meta"))
        return sharding.local_state({key: state[key] for key in keys}, parameter)


def _are_far(averaged: Sequence[tuple[Tensor, State]]) -> bool:
    """Whether parameters, all together, are far from their averages; see `FAR`.

    A single one may be far without anybody's doing, such as a bias near zero. Sharded ones do not
    count: their processes would have to agree.
    """
    whole = [
        (sharding.local_part(parameter.detach()), state["average"])
        for parameter, state in averaged
        if not sharding.is_sharded(parameter) and not has_no_values(parameter)
    ]
    distance = sum(float((value - average).norm()) ** 2 for value, average in whole)
    return distance > FAR**2 * sum(float(average.norm()) ** 2 for _, average in whole)


def _averaged(groups: Groups, states: Mapping[Tensor, Any]) -> list[Tensor]:
    """The parameters in training mode that have an average to evaluate."""
    return [
        parameter
        for group in groups
        if group[MODE] and group["total_steps"] is None
        for parameter in group["params"]
        if states.get(parameter)
    ]


def _sharing(parameters: Sequence[Tensor]) -> set[Tensor]:
    """Those whose storage is another one's, too: either's average may lie in its memory."""
    places = {p: p.untyped_storage().data_ptr() for p in parameters if has_memory(p.detach())}
    counts = Counter(places.values())
    return {parameter for parameter, place in places.items() if counts[place] > 1}


def _version(parameter: Tensor) -> int:
    """How often a parameter was changed in place; inference mode does not count.

    A parameter of a lazy module has no values before the first forward pass.
    """
    return 0 if is_lazy(parameter) or parameter.is_inference() else parameter._version


def _steps(state: State | None) -> int:
    step = state.get("step") if state else None
    return 0 if step is None or has_no_values(step) else int(step)


def _is_behind(steps: int, latest: int) -> bool:
    """Whether a tensor stood still for longer than its average reaches back: a tenth of its steps.

    A model that is frozen only while it is evaluated is not behind.
    """
    return latest - steps > steps / 10


def check_training(groups: Iterable[Mapping[str, Any]]) -> None:
    """Refuse to step from an average; a step at a learning rate of 0, which makes state, may pass.

    Raises:
        RuntimeError: the optimizer is in evaluation mode.
    """
    if not all(group[MODE] or float(group["lr"]) == 0 for group in groups):
        raise RuntimeError(
            "the optimizer is in evaluation mode: its parameters are averages, which are not to be "
            "trained. Call optimizer.train() before step()"
        )


def check_loaded(groups: Groups, states: Mapping[Any, Any], rule: UpdateRule) -> None:
    """Refuse a state dict that was saved in evaluation mode without the values to train on.

    torch.distributed.checkpoint loads only the keys that it finds in the optimizer at hand.

    Raises:
        ValueError: training could not go on from it.
    """
    if not rule.averages:
        return
    for group in groups:
        lost = [p for p in group["params"] if states.get(p) and TRAINING_VALUE not in states[p]]
        if not group.get(MODE, True) and group.get("total_steps") is None and lost:
            raise ValueError(
                "the loaded optimizer state was saved in evaluation mode, and the weights to train "
                "on are missing: call optimizer.train() before you save with "
                "torch.distributed.checkpoint"
            )


def _warn(when: str, what: str, *, frames: int = 5) -> None:
    warnings.warn(
        f"the weights were changed {when}, not by the optimizer: they are {what} as they are, and "
        "the running average begins anew at them",
        UserWarning,
        # The line that called eval, train or step. torch.no_grad is a frame, too, and so is
        # the wrapper that torch puts around step.
        stacklevel=frames,
    )
