"""The progress bar of meta-training: where it is, and how long it will need."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm


class Progress:
    """A bar over the outer steps.

    Args:
        done: outer steps taken before.
        total: outer steps in all.
        show: whether to draw at all.
    """

    def __init__(self, done: int, total: int, *, show: bool) -> None:
        self.total = total
        self.first = self.done = done
        self.began = time.monotonic()
        self.bar = tqdm(
            total=total,
            initial=done,
            desc="meta-training",
            unit="step",
            dynamic_ncols=True,
            disable=not show,
            bar_format=_format("?"),
        )

    def step(self, figures: dict[str, str], seconds_left: float) -> None:
        """Show one more outer step.

        Args:
            figures: to show behind the bar.
            seconds_left: after which meta-training stops, finished or not.
        """
        self.done += 1
        self.bar.bar_format = _format(tqdm.format_interval(self.remaining(seconds_left)))
        self.bar.set_postfix(figures, refresh=False)
        self.bar.update()

    def remaining(self, seconds_left: float) -> float:
        """Seconds until all outer steps are taken or time is over, whichever is first."""
        taken = self.done - self.first
        spent = time.monotonic() - self.began
        by_steps = (self.total - self.done) * spent / taken if taken else math.inf
        return max(0.0, min(by_steps, seconds_left))

    def __enter__(self) -> Self:
        """Draw."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the bar as it is, on its line."""
        self.bar.close()


def _format(left: str) -> str:
    """The format of tqdm itself, with another estimate of the time that is left."""
    return (
        f"{{l_bar}}{{bar}}| {{n_fmt}}/{{total_fmt}} [{{elapsed}}<{left}, {{rate_fmt}}{{postfix}}]"
    )
