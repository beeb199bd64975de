"""The weights that a run begins with: copied into its rule, and the same when it is resumed."""

from __future__ import annotations

import json
from pathlib import Path

from jsonargparse import get_loader

from learned_opt.files import expand, one_line
from learned_opt.rules import UpdateRule, rule_name
from learned_opt.weights import load_rule
from meta_train.jobs.command import CONFIG


def start_at(rule: UpdateRule, path: Path) -> str | None:
    """Copy the weights of a file into a rule, in place.

    Returns:
        The settings in which the two rules differ, to show; None if there are none. Sizes may
        grow, but with other constants the same weights are another function.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: a damaged file, another rule, or a weight that has no place in this one.
    """
    earlier = load_rule(path)
    if type(earlier) is not type(rule):
        raise ValueError(f"start={path} holds rule {rule_name(earlier)}, not {rule_name(rule)}")
    own = rule.state_dict()
    for name, value in earlier.state_dict().items():
        if name not in own or own[name].shape != value.shape:
            there = list(own[name].shape) if name in own else "none"
            raise ValueError(
                f"start={path} has {name} of shape {list(value.shape)}, the rule has {there}"
            )
    rule.load_state_dict({**own, **earlier.state_dict()})
    there, here = (json.loads(json.dumps(one.settings)) for one in (earlier, rule))  # no tuples
    others = [
        f"{name} {there.get(name)}, here {value}"
        for name, value in here.items()
        if there.get(name) != value
    ]
    if not others:
        return None
    return f"start={path} was made with other rule_settings: {'; '.join(others)}"


def check_same_start(folder: Path, start: Path | None) -> None:
    """Refuse to resume a run with other weights to begin with than it had.

    It continues from its checkpoint: others would be ignored, yet named in the card of its weights.

    Args:
        folder: the run folder; its config.yaml says what the run began with.
        start: the setting of the resumed run.

    Raises:
        ValueError: the run began with another file, or with none; or config.yaml is damaged.
    """
    began = _recorded_start(folder / CONFIG)
    if _resolved(began) == _resolved(start):
        return
    with_what = "without --start" if began is None else f"with --start {began}"
    remedy = f"with --start {began}" if start is None else f"without --start {start}"
    raise ValueError(
        f"the run in {folder} began {with_what} and continues from its checkpoint: resume it "
        f"{remedy}, or start a new run"
    )


def _recorded_start(path: Path) -> Path | None:
    """The setting `start` in the configuration of a run; None without one."""
    if not path.exists():
        return None
    try:
        recorded = get_loader("yaml")(path.read_text("utf-8"))
    except OSError:
        raise
    except Exception as error:  # a damaged file raises errors of the library that reads it
        raise ValueError(f"{path} is no configuration: {one_line(error)}") from None
    start = recorded.get("start") if isinstance(recorded, dict) else None
    return None if start is None else Path(start)


def _resolved(path: Path | None) -> Path | None:
    return None if path is None else expand(path).resolve()
