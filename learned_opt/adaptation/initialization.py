"""Learned initialisations: values by name, and the rule that goes with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from learned_opt.adaptation.prefixes import names_with_prefix, names_with_prefixes
from learned_opt.checks.arguments import check_module, check_type
from learned_opt.functional import check_lr, check_proximal, check_steps
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.rule_argument import check_rule

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
                as "head." for a head with other classes. The module need not have them. The name of
                a module means that module: "fc1" is not "fc10", too.

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

    def _pairs(self, module: nn.Module, keep: tuple[str, ...]) -> list[tuple[Tensor, Tensor]]:
        named = dict(module.named_parameters())
        buffers = dict(module.named_buffers())
        # A tied tensor has several names, of which `named` and `buffers` have the first.
        every: dict[str, Tensor] = dict(module.named_parameters(remove_duplicate=False))
        every.update(module.named_buffers(remove_duplicate=False))
        names = {*every, *self.parameters, *self.buffers}
        kept = names_with_prefixes(keep, names)
        kept_tensors = {id(every[name]) for name in kept & every.keys()}
        kept |= {name for name, value in every.items() if id(value) in kept_tensors}
        problems = _differences("parameter", named, self.parameters, kept)
        # The module may have other buffers, such as counters.
        present = {key: value for key, value in buffers.items() if key in self.buffers}
        problems += _differences("buffer", present, self.buffers, kept)
        problems += [
            f"no name begins with {prefix!r}, given in keep"
            for prefix in keep
            if not names_with_prefix(prefix, names)
        ]
        if problems:
            raise ValueError(
                f"the initialisation does not fit {type(module).__name__}: {'; '.join(problems)} "
                "(names given in keep stay as they are in the module)"
            )
        targets = {**named, **buffers}
        values = {**self.parameters, **self.buffers}
        return [(targets[k], v) for k, v in values.items() if k not in kept]


def _differences(
    kind: str, module: Mapping[str, Tensor], own: Mapping[str, Tensor], kept: set[str]
) -> list[str]:
    wanted = {key: value for key, value in module.items() if key not in kept}
    given = {key: value for key, value in own.items() if key not in kept}
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
