"""`explain`: measures a rule, learned or hand-designed, beside others."""

from __future__ import annotations

import copy
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike

import torch

from learned_opt.checks.arguments import check_type, shown
from learned_opt.checks.setting_types import fitted
from learned_opt.explanation.explanation import Explanation
from learned_opt.explanation.measurements.measured import (
    Findings,
    measure_responses,
    measure_trainings,
)
from learned_opt.files import expand, one_line
from learned_opt.registry import unknown
from learned_opt.rules.base import UpdateRule
from learned_opt.rules.registry import create_rule, list_rules, rule_name
from learned_opt.rules.rule_argument import check_rule
from learned_opt.weights import find_rule, list_pretrained, names_weights, rule_digest


def explain(
    rule: UpdateRule | str | PathLike[str],
    *,
    compare: Sequence[UpdateRule | str | PathLike[str]] = ("adam", "momentum"),
    name: str | None = None,
    seed: int = 0,
) -> Explanation:
    """Measure what a rule does with gradients: seven panels, each with a sentence.

    1. The first update against the gradient, over the gradients that a training meets.
    2. How one gradient echoes in later updates: the momentum that fits; how a steady one adds up.
    3. The schedule: update sizes over steps, and told the number of steps.
    4. Update size against gradient scale, over ten decades.
    5. The state: its path in a training, and the eigenvalues of the linearised rule.
    6. How far updates are from following changes of sign, scale and coordinates.
    7. Step sizes and directions by layer, in six small trainings.

    The rule runs on the CPU, at its default learning rate, in its own dtype; nothing is downloaded
    and no global random number is drawn. Takes about ten seconds of a core. A rule of whole tensors
    is probed at one coordinate of a matrix whose other coordinates keep noisy gradients.

    Args:
        rule: a rule; or the name of bundled weights, of a rule, or the path of weights. A name of a
            rule that has no bundled weights means the rule with fresh weights.
        compare: rules to draw beside it, in greys.
        name: of the rule in the page's title; by default as it was given.
        seed: random seed of weights, trainings and gradients.

    Returns:
        The numbers and sentences, which can be drawn, saved and written to TensorBoard.

    Raises:
        TypeError: `compare` is no list.
        ValueError: an unknown name, a damaged file, or a rule that cannot be stepped.

    Examples:
        >>> explanation = explain("sgd", compare=["adam"])
        >>> print(explanation.sentences["scale"])
        Ten times larger gradients make updates 10 times as large, over all ten decades.
    """
    if isinstance(compare, (str, UpdateRule)):
        raise ValueError(f"compare must be a list of rules, got {shown(compare)}")
    check_type("compare", compare, Iterable, "a list of rules")
    seed = fitted("seed", seed, int)
    own_name, own = find(rule, seed)
    others: dict[str, UpdateRule] = {}
    for place, other in enumerate(compare):
        if not isinstance(other, (str, PathLike)):
            check_rule(other, "an UpdateRule, a name or a path", f"compare[{place}]")
        other_name, found = find(other, seed)
        if rule_digest(found) != rule_digest(own):
            others[_new_name(other_name, [own_name, *others])] = found
    with _naming(own_name):
        trainings = measure_trainings(own, seed)
        responses = measure_responses(own, trainings.density)
    compared = {}
    for key, other_rule in others.items():
        with _naming(key):
            compared[key] = measure_responses(other_rule, trainings.density)
    title = own_name if name is None else name
    return Explanation(Findings(title, _subtitle(own), responses, trainings, compared))


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Name the rule whose step fails: its author wrote that step."""
    try:
        yield
    except (RuntimeError, TypeError, KeyError, IndexError) as error:
        why = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(f"{name} cannot be stepped: {why}") from error


def _new_name(name: str, taken: Collection[str]) -> str:
    """The name, with a number where another rule has it."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name} {number}"
    return free


def find(rule: UpdateRule | str | PathLike[str], seed: int) -> tuple[str, UpdateRule]:
    """Find a rule and a name to show: bundled weights, a weights file, or a rule of the registry.

    Args:
        rule: see `explain`.
        seed: random seed of weights, where there are none.

    Returns:
        The name, and a rule on the CPU that the caller must not change.

    Raises:
        ValueError: an unknown name, or a damaged file.
    """
    if isinstance(rule, UpdateRule):
        return rule_name(rule), copy.deepcopy(rule).to("cpu")
    if not isinstance(rule, (str, os.PathLike)):
        check_rule(rule, "an UpdateRule, a name or a path")
    text = os.fspath(rule)
    if names_weights(text):
        return short_name(text), find_rule(text)
    if text not in list_rules():
        raise ValueError(unknown("rule", text, {*list_rules(), *list_pretrained()}))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = create_rule(text)
    return (f"{text}, untrained" if list(fresh.parameters()) else text), fresh


def short_name(name_or_path: str) -> str:
    """A name, or that of a file without folder and suffix.

    Every run writes "weights.safetensors": such a file has the name of its folder.
    """
    stem = os.path.basename(name_or_path).removesuffix(".safetensors")
    if stem == "weights":
        return expand(name_or_path).resolve().parent.name or stem
    return stem


def _subtitle(rule: UpdateRule) -> str:
    weights = sum(parameter.numel() for parameter in rule.parameters())
    kind = f"{weights:,} weights of the rule {rule_name(rule)}" if weights else "hand-designed"
    return f"{kind}, learning rate {rule.default_lr:g}"
