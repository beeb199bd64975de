"""Learned initialisations: values by name, the rule that goes with them, and their file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from learned_opt.adaptation.bundled import find_initialization
from learned_opt.checks.arguments import check_module, check_type, shown
from learned_opt.files import (
    check_version,
    expand,
    one_line,
    read_json,
    read_tensors,
    write_tensors,
)
from learned_opt.functional import check_lr, check_proximal, check_steps
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.per_tensor_rates import ANY_RULES, any_rule_name, create_any_rule
from learned_opt.rules.rule_argument import check_rule
from learned_opt.rules.saved_rules import build_saved_rule

FORMAT = "learned_opt.adaptation.initialization"
VERSION = 1
FIELDS = ("version", "names", "facts", "card")
"""The header of a file."""

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, eq=False)  # == of tensors is no bool
class Initialization:
    """Initial values of a module's tensors, and the settings of the inner loop they are meant for.

    Attributes:
        parameters: values by parameter name, for every parameter of the module.
        buffers: values by buffer name, such as running statistics; the module may have others.
        rule: the update rule that goes with it, or None.
        lr: the learning rate that goes with it; None means the rule's own.
        steps: number of inner steps it was meta-trained for, or 0 for none; None means unknown.
        only: prefixes of the names of the parameters that the steps adapt; None adapts all.
        proximal: iMAML's lambda, which holds the steps near the start; None means 0.
        card: facts about meta-training and measurements, for JSON.

    Raises:
        ValueError: `rule` is no UpdateRule, `lr` is not a finite number, `steps` is not a whole
            number of at least 0, `only` is a string, or `proximal` is not finite and at least 0.

    Examples:
        >>> initialization = Initialization.of(model, lr=0.4, steps=5)
        >>> initialization.apply_to(nn.Linear(3, 2))
        Linear(in_features=3, out_features=2, bias=True)
    """

    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    rule: UpdateRule | None = None
    lr: float | None = None
    steps: int | None = None
    only: tuple[str, ...] | None = None
    proximal: float | None = None
    card: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Name the fields; of tensors, only their number and size."""
        count = sum(value.numel() for value in self.parameters.values())
        rule = "None" if self.rule is None else type(self.rule).__name__
        return (
            f"Initialization({len(self.parameters)} tensors of {count:,} numbers, rule={rule}, "
            f"lr={self.lr}, steps={self.steps}, only={self.only}, proximal={self.proximal})"
        )

    def __post_init__(self) -> None:
        """Check the fields, and convert numbers to plain Python ones."""
        for name in ("parameters", "buffers"):
            values = getattr(self, name)
            check_type(name, values, Mapping, "tensors by name")
            for key, value in values.items():
                check_type(f"{name}[{key!r}]", value, Tensor, "a tensor")
        check_type("card", self.card, Mapping, "a mapping")
        if self.rule is not None:
            check_rule(self.rule)
        if self.lr is not None:
            object.__setattr__(self, "lr", check_lr(self.lr))
        if self.steps is not None:
            object.__setattr__(self, "steps", check_steps(self.steps))
        if isinstance(self.only, str):
            raise ValueError(f"only must be a list of names or prefixes, got {self.only!r}")
        if self.only is not None:
            check_type("only", self.only, Iterable, "a list of names or prefixes")
            object.__setattr__(self, "only", tuple(self.only))
        if self.proximal is not None:
            object.__setattr__(self, "proximal", check_proximal(self.proximal))

    @classmethod
    def of(cls, module: nn.Module, **fields: Any) -> Initialization:
        """Copy the present values of a module: its parameters and the buffers that it saves.

        Args:
            module: any module.
            **fields: the other attributes: `rule`, `lr`, `steps` and so on.

        Raises:
            ValueError: not a module, or a field that does not fit; see `Initialization`.
        """
        check_module(module)
        saved = module.state_dict().keys()
        buffers = {k: v.detach().clone() for k, v in module.named_buffers() if k in saved}
        parameters = {k: v.detach().clone() for k, v in module.named_parameters()}
        return cls(**{"parameters": parameters, "buffers": buffers, **fields})

    def apply_to(self, module: M, *, keep: Iterable[str] = ()) -> M:
        """Write the values into a module, in place.

        Args:
            module: the module; changed in place.
            keep: names, or prefixes of names, of parameters and buffers that are left alone, such
                as "head." for a head with other classes. The module need not have them.

        Returns:
            The module itself.

        Raises:
            ValueError: not a module, names or shapes of the parameters differ, the module is on the
                meta device, or `keep` is a string or matches no name. The module is then unchanged.
        """
        if isinstance(keep, str):
            raise ValueError(f"keep must be a list of names or prefixes, got the string {keep!r}")
        check_module(module)
        check_type("keep", keep, Iterable, "a list of names or prefixes")
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
        # The module may have other buffers, such as counters.
        present = {key: value for key, value in buffers.items() if key in self.buffers}
        problems += _differences("buffer", present, self.buffers, kept)
        names = {*named, *buffers, *self.parameters, *self.buffers}
        problems += [
            f"no name begins with {prefix!r}, given in keep"
            for prefix in kept
            if not any(name.startswith(prefix) for name in names)
        ]
        if problems:
            raise ValueError(
                f"the initialisation does not fit {type(module).__name__}: {'; '.join(problems)} "
                "(names given in keep stay as they are in the module)"
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
        problems.append(f"only the module has {kind} {_list(missing)}")
    if extra := sorted(given.keys() - wanted.keys()):
        problems.append(f"only the initialisation has {kind} {_list(extra)}")
    problems += [
        f"{kind} {key!r} is {list(wanted[key].shape)} in the module, "
        f"{list(given[key].shape)} in the initialisation"
        for key in sorted(wanted.keys() & given.keys())
        if wanted[key].shape != given[key].shape
    ]
    return problems


def _list(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def save_initialization(initialization: Initialization, path: str | PathLike[str]) -> None:
    """Write an initialisation and its rule to a file, completely or not at all.

    Args:
        initialization: the initialisation.
        path: the file; an existing one is replaced.

    Raises:
        ValueError: the rule's class is not registered, so the file could not be loaded, or JSON
            cannot hold the card or the rule's settings.
        OSError: the disk is full or the folder cannot be written; an old file is unchanged.

    Examples:
        >>> save_initialization(Initialization.of(model, lr=0.4), "start.safetensors")
    """
    if not isinstance(initialization, Initialization):
        raise ValueError(
            f"initialization must be an Initialization, got {shown(initialization)}; "
            "Initialization.of(module) makes one of a module"
        )
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
    write_tensors(expand(path), tensors, FORMAT, metadata)


def load_initialization(name_or_path: str | PathLike[str]) -> Initialization:
    """Read a bundled initialisation, or a file that `save_initialization` wrote, onto the CPU.

    Args:
        name_or_path: a name from `list_initializations()`, or a path.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: an unknown name, or a file that is damaged, truncated, or of another format;
            the message names it.

    Examples:
        >>> characters = load_initialization("omniglot-maml")
        >>> characters.lr, characters.steps
        (0.4, 3)
        >>> save_initialization(Initialization.of(model, lr=0.4), "start.safetensors")
        >>> initialization = load_initialization("start.safetensors")
        >>> adapted = adapt(model, (inputs, targets), initialization=initialization)
    """
    path = find_initialization(name_or_path)
    tensors, metadata = read_tensors(path, FORMAT, FIELDS)
    check_version(path, metadata, VERSION)
    parts: dict[str, dict[str, Tensor]] = {"parameters": {}, "buffers": {}, "rule": {}}
    try:
        for key, value in tensors.items():
            part, name = key.split("/", 1)
            parts[part][name] = value
        facts, names = read_json(metadata["facts"]), read_json(metadata["names"])
        if sorted(names) != sorted(parts["parameters"]):
            raise ValueError("its parameters are not those that its header names")
        return Initialization(
            parameters={name: parts["parameters"][name] for name in names},
            buffers=parts["buffers"],
            rule=_rule(facts, parts["rule"]),
            lr=facts["lr"],
            steps=facts["steps"],
            only=_only(facts),
            proximal=facts.get("proximal"),
            card=dict(read_json(metadata["card"])),
        )
    except MemoryError:
        raise
    except Exception as error:  # what a foreign file makes of a rule raises errors of many types
        raise ValueError(
            f"{path} holds no initialisation that this version can load: {one_line(error)}"
        ) from None


def _only(facts: Mapping[str, Any]) -> tuple[str, ...] | None:
    if "only" not in facts:
        return None
    names = facts["only"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"only must be a list of names or prefixes, got {str(names)[:80]}")
    return tuple(names)


def _rule(facts: Mapping[str, Any], weights: Mapping[str, Tensor]) -> UpdateRule | None:
    if "rule" not in facts:
        if weights:
            raise ValueError("it holds weights of a rule, but names no rule")
        return None
    return build_saved_rule(
        create_any_rule, ANY_RULES, facts["rule"], facts["settings"], weights, facts["dtype"]
    )
