"""What training starts from: values by name, the rule that goes with them, and their file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from learned_opt.files import check_version, read_tensors, write_tensors
from learned_opt.functional import check_lr, check_proximal, check_steps
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.per_tensor_rates import any_rule_name, create_any_rule

FORMAT = "learned_opt.adaptation.initialization"
VERSION = 1

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, eq=False)  # tensors are not compared in passing
class Initialization:
    """Where training starts, and the rule that it was meta-trained with.

    Attributes:
        parameters: values by parameter name, all of those of the modules that it is for.
        buffers: values by buffer name, such as running statistics; a module may have others.
        rule: the update rule that goes with it, if one does.
        lr: the rate that goes with it; None is the rule's own.
        steps: inner steps that it is meant for; 0 where what it is of takes none.
        only: beginnings of the names of the parameters that those steps adapt; None adapts all.
        proximal: how strongly those steps are held at the start (iMAML's lambda); None is not.
        card: what it was meta-trained on, what was measured.

    Raises:
        ValueError: a `rule` that is none, an `lr` that is not a finite number, `steps` that are not
            a whole number of at least 0, `only` that is a text, a `proximal` that is not finite and
            at least 0.
    """

    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    rule: UpdateRule | None = None
    lr: float | None = None
    steps: int | None = None
    only: tuple[str, ...] | None = None
    proximal: float | None = None
    card: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what nobody could adapt with, and make plain numbers of those of other kinds."""
        if self.rule is not None and not isinstance(self.rule, UpdateRule):
            raise ValueError(
                f"rule must be an UpdateRule, such as create_rule('sgd'), got {self.rule!r}"
            )
        if self.lr is not None:
            object.__setattr__(self, "lr", check_lr(self.lr))
        if self.steps is not None:
            object.__setattr__(self, "steps", check_steps(self.steps))
        if isinstance(self.only, str):
            raise ValueError(f"only must be names or beginnings of names, got {self.only!r}")
        if self.only is not None:
            object.__setattr__(self, "only", tuple(self.only))
        if self.proximal is not None:
            object.__setattr__(self, "proximal", check_proximal(self.proximal))

    @classmethod
    def of(cls, module: nn.Module, **fields: Any) -> Initialization:
        """Where a module stands: copies of its parameters and of the buffers that it saves.

        Args:
            module: any module.
            **fields: the other attributes, `rule`, `lr`, `steps` and so on.
        """
        saved = module.state_dict().keys()
        buffers = {k: v.detach().clone() for k, v in module.named_buffers() if k in saved}
        parameters = {k: v.detach().clone() for k, v in module.named_parameters()}
        return cls(**{"parameters": parameters, "buffers": buffers, **fields})

    def apply_to(self, module: M, *, keep: Iterable[str] = ()) -> M:
        """Write the values into a module, and leave everything else of it as it is.

        Args:
            module: is changed in place.
            keep: names, or beginnings of names, of parameters and buffers that the module keeps as
                they are, or does not have: "head." for a head of other classes, say.

        Returns:
            The module itself.

        Raises:
            ValueError: the module has parameters that are not here, or the other way round, or
                shapes differ, or the module is on the meta device, or `keep` is a text in place
                of names, or has one that nothing begins with. Nothing has changed then.
        """
        if isinstance(keep, str):
            raise ValueError(f"keep must be names or beginnings of names, got the text {keep!r}")
        kept = tuple(keep)
        pairs = self._pairs(module, kept)
        if any(target.is_meta for target, _ in pairs):
            raise ValueError(
                f"{type(module).__name__} is on the meta device and holds no values: move it with "
                "to_empty(device=...) first"
            )
        with torch.no_grad():
            for target, value in pairs:
                target.copy_(value)
        return module

    def _pairs(self, module: nn.Module, kept: tuple[str, ...]) -> list[tuple[Tensor, Tensor]]:
        named = dict(module.named_parameters())
        problems = _differences("parameter", named, self.parameters, kept)
        buffers = dict(module.named_buffers())
        # A module may have buffers that nobody learned, such as counters.
        present = {key: value for key, value in buffers.items() if key in self.buffers}
        problems += _differences("buffer", present, self.buffers, kept)
        names = {*named, *buffers, *self.parameters, *self.buffers}
        problems += [
            f"keep has {prefix!r}, with which no name begins"
            for prefix in kept
            if not any(name.startswith(prefix) for name in names)
        ]
        if problems:
            raise ValueError(
                f"the initialisation does not fit {type(module).__name__}: {'; '.join(problems)} "
                "(names given in keep are left alone)"
            )
        targets = {**named, **buffers}
        values = {**self.parameters, **self.buffers}
        return [(targets[k], v) for k, v in values.items() if not k.startswith(kept)]


def _differences(
    kind: str, module: Mapping[str, Tensor], own: Mapping[str, Tensor], kept: tuple[str, ...]
) -> list[str]:
    wanted = {key: value for key, value in module.items() if not key.startswith(kept)}
    given = {key: value for key, value in own.items() if not key.startswith(kept)}
    problems = []
    if missing := sorted(wanted.keys() - given.keys()):
        problems.append(f"it has no {kind} {_list(missing)}")
    if extra := sorted(given.keys() - wanted.keys()):
        problems.append(f"the module has no {kind} {_list(extra)}")
    problems += [
        f"{kind} {key!r} is {list(wanted[key].shape)} in the module, {list(given[key].shape)} here"
        for key in sorted(wanted.keys() & given.keys())
        if wanted[key].shape != given[key].shape
    ]
    return problems


def _list(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def save_initialization(initialization: Initialization, path: str | PathLike[str]) -> None:
    """Write an initialisation, and its rule, to a file, whole or not at all.

    Args:
        initialization: what to write.
        path: where to; an existing file is replaced.

    Raises:
        ValueError: its rule's class is not registered, so nobody could load the file, or the card
            or the rule's settings are not for JSON.
        OSError: the disk is full or the folder cannot be written; the old file is as it was.
    """
    tensors = {f"parameters/{k}": v for k, v in initialization.parameters.items()}
    tensors.update({f"buffers/{k}": v for k, v in initialization.buffers.items()})
    facts: dict[str, Any] = {"lr": initialization.lr, "steps": initialization.steps}
    if initialization.only is not None:
        facts["only"] = list(initialization.only)
    if initialization.proximal is not None:
        facts["proximal"] = initialization.proximal
    rule = initialization.rule
    if rule is not None:
        name = any_rule_name(rule)
        if name is None:
            raise ValueError(f"cannot save rule {type(rule).__name__}: its class is not registered")
        facts.update(rule=name, settings=rule.settings, dtype=str(rule.dtype).split(".")[1])
        tensors.update({f"rule/{k}": v for k, v in rule.state_dict().items()})
    metadata = {
        "version": str(VERSION),
        "names": json.dumps(list(initialization.parameters)),  # a file sorts them
    }
    for key, value in (("facts", facts), ("card", dict(initialization.card))):
        try:
            metadata[key] = json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the {key} of the initialisation cannot be saved: {error}") from None
    write_tensors(Path(path), tensors, FORMAT, metadata)


def load_initialization(path: str | PathLike[str]) -> Initialization:
    """Read an initialisation from a file that `save_initialization` wrote, onto the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: damaged, truncated, or not a file of ours; the message names it.
    """
    tensors, metadata = read_tensors(Path(path), FORMAT)
    check_version(path, metadata, VERSION)
    parts: dict[str, dict[str, Tensor]] = {"parameters": {}, "buffers": {}, "rule": {}}
    try:
        for key, value in tensors.items():
            part, name = key.split("/", 1)
            parts[part][name] = value
        facts = json.loads(metadata["facts"])
        return Initialization(
            parameters={key: parts["parameters"][key] for key in json.loads(metadata["names"])},
            buffers=parts["buffers"],
            rule=_rule(facts, parts["rule"]),
            lr=facts["lr"],
            steps=facts["steps"],
            only=tuple(facts["only"]) if "only" in facts else None,
            proximal=facts.get("proximal"),
            card=json.loads(metadata["card"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        lacks = "it lacks " if isinstance(error, KeyError) else ""
        reason = lacks + " ".join(str(error).split())
        raise ValueError(
            f"{path} does not hold an initialisation that this version knows: {reason}"
        ) from None


def _rule(facts: Mapping[str, Any], weights: Mapping[str, Tensor]) -> UpdateRule | None:
    if "rule" not in facts:
        return None
    # Whatever torch.device context the caller is in, and without touching his random numbers.
    with (
        torch.inference_mode(False),
        torch.device("cpu"),
        torch.random.fork_rng(devices=[]),
    ):
        rule = create_any_rule(facts["rule"], **facts["settings"])
        rule.to(getattr(torch, facts["dtype"]))
        rule.load_state_dict(dict(weights))
    return rule.eval()
