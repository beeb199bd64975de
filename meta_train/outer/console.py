"""Messages and the progress bar of meta-training, shown by the first process alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meta_train.inner.runs.groups import Groups
from meta_train.outer.record import OuterStepRecord
from meta_train.runtime.progress import progress_bar, say

if TYPE_CHECKING:
    from tqdm import tqdm  # of the extra "meta": imported where used


class Console:
    """Shows messages, and the progress of the outer steps.

    Args:
        enabled: whether this process shows anything.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._said: set[tuple[str, bool]] = set()

    def say(self, text: str) -> None:
        """Print a line without breaking the progress bar."""
        if self.enabled:
            say(text)

    def say_how_runs_train(self, groups: Groups) -> None:
        """Say once per family whether inner runs train in one call, where there was a choice."""
        for member, runs in zip(groups.members, groups.runs, strict=True):
            choice = runs.chosen
            if choice is None:
                continue
            how = "all inner runs train in one call (vmap)"
            if not choice.vectorize:
                how = f"inner runs train one by one ({choice.reason})"
            if (key := (member.name, choice.vectorize)) not in self._said:
                self._said.add(key)
                self.say(f"{member.name}: {how}")

    def progress_bar(self, done: int, total: int, *, show: bool) -> tqdm[Any]:
        """A progress bar over the outer steps."""
        return progress_bar(
            total, "step", show=show and self.enabled, desc="meta-training", initial=done
        )

    @staticmethod
    def advance(bar: tqdm[Any], record: OuterStepRecord, seconds_left: float) -> None:
        """Advance the bar by one outer step.

        The bar's own estimate of the remaining time does not know the time limit: it is shown, too.
        """
        estimate = record.estimate
        shown = [f"meta-loss={estimate.meta_loss:.4f}" if estimate.counted else "meta-loss=none"]
        if record.diverged:
            shown.append(f"diverged={record.diverged}")
        shown.append(f"time limit in {bar.format_interval(max(0.0, seconds_left))}")
        bar.set_postfix_str(", ".join(shown), refresh=False)
        bar.update()
