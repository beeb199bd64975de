"""Explains errors of the command line in plain words, and suggests what to write instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from jsonargparse import Namespace

MAPPINGS: Mapping[str, str] = MappingProxyType(
    {
        "task_settings": '{"hidden": [64, 64]}',
        "rule_settings": '{"hidden_size": 8}',
        "row_settings": '{"inner_lr": 0.02}',
        "estimator_settings": '{"sigma": 0.02}',
        "train": '{"lr": 0.01}',
    }
)
"""Values to write for settings that hold settings, as a shell takes them."""


def explain_error(text: str, defaults: Namespace, renamed: Mapping[str, str]) -> str:
    """Explain an error of jsonargparse in one line.

    Args:
        text: the error, in one line.
        defaults: default values of all settings.
        renamed: former names of settings, such as "train.window", and their present names.
    """
    if found := re.search(r"Importing (.+?) is not allowed", text):
        key = re.match(r'Parser key "(.+?)"', text)
        refused = f"{key[1]} cannot be {found[1]}" if key else f"class_path {found[1]}"
        return f"{refused}: a configuration does not import classes"
    if found := re.match(r'Parser key "(.+?)": .*NestedArg\(key=\'(.+?)\'', text):
        return _unknown_setting(f"{found[1]}.{found[2]}", list(defaults.keys()), renamed)
    if found := re.fullmatch(r'Parser key "(.+?)": Expected an? (.+?)\. Got value: (.*)', text):
        return _wrong_type(found[1], found[2], found[3], defaults)
    if found := re.fullmatch(
        r'Parser key "(.+?)": .*Subtypes: \[(.*?)\] Errors: .* Given value: (.*)', text
    ):
        return _wrong_type(found[1], found[2], found[3], defaults)
    if found := re.fullmatch(r"unrecognized arguments: (.*)", text):
        return _unknown_argument(found[1], list(defaults.keys()), renamed) or text
    if found := re.fullmatch(r"Group '(.+)' does not accept option '(.+)'", text):
        return _unknown_setting(f"{found[1]}.{found[2]}", list(defaults.keys()), renamed)
    if found := re.fullmatch(r"Option '(.+)' is not accepted", text):
        return _unknown_setting(found[1], list(defaults.keys()), renamed)
    if found := re.fullmatch(r"Unexpected config: ?(.*)", text):
        held = f"holds {found[1][:80]!r}" if found[1] else "is empty"
        return f"the configuration {held}: give settings, such as task: quadratic"
    return _with_section(text, list(defaults.keys()))


def _with_section(text: str, known: list[str]) -> str:
    """An error of `lr` as one of `train.lr`: the settings themselves do not know their section."""
    found = re.match(r"(\w+) must ", text)
    if not found or found[1] in known:
        return text
    whole = [name for name in known if name.rpartition(".")[2] == found[1]]
    return text.replace(found[1], whole[0], 1) if len(whole) == 1 else text


def _wrong_type(name: str, wanted: str, got: str, defaults: Namespace) -> str:
    if "tuple" in wanted:
        return f"{name} must be a list{_example(got, defaults.get(name))}, got {got}"
    choices = re.sub(r"typing\.Literal\[(.*)\]", r"one of \1", wanted)
    kinds = re.findall(r"<class '(\w+)'>", wanted)
    named = " or ".join("null" if kind == "NoneType" else kind for kind in kinds)
    written = MAPPINGS.get(name.rpartition(".")[2]) if kinds == ["dict"] else None
    example = f", such as '{written}'" if written else ""
    return f"{name} must be {f'of type {named}' if kinds else choices}{example}, got {got}"


def _example(got: str, default: Any) -> str:
    """A list to write in place of a number."""
    if default == () or not re.fullmatch(r"[\w.+-]+", got):
        return ""
    pair = isinstance(default, tuple) and len(default) == 2
    return f" such as {list(default)}" if pair else f" such as [{got}]"


def _unknown_argument(arguments: str, known: list[str], renamed: Mapping[str, str]) -> str | None:
    """An explanation of the first option that is not known; None if there is no option."""
    options = [word for word in arguments.split() if word.startswith("--")]
    if not options:
        return None
    return _unknown_setting(options[0].removeprefix("--").partition("=")[0], known, renamed)


def _unknown_setting(name: str, known: list[str], renamed: Mapping[str, str]) -> str:
    if name in renamed:
        return f"setting {name} is now called {renamed[name]}"
    near = _nearest(name.replace("-", "_").lower(), known)
    hint = f"; did you mean --{near}?" if near else "; --help lists all settings"
    return f"unknown setting --{name}{hint}"


def _nearest(name: str, known: list[str]) -> str | None:
    """The nearest known name: the same name in other groups, or one spelled alike."""
    group, _, last = name.rpartition(".")
    same = [other for other in known if other.rpartition(".")[2] == last]
    if same:
        return name if name in same else " or --".join(same)
    beside = [other for other in known if other.rpartition(".")[0] == group]
    for names in (beside, known):
        if near := difflib.get_close_matches(name, names, n=1, cutoff=0.75):
            return near[0]
    lasts = {other.rpartition(".")[2]: other for other in known}
    near = difflib.get_close_matches(last, lasts, n=1, cutoff=0.75)
    return lasts[near[0]] if near else None
