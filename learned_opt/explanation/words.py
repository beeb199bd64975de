"""Numbers as sentences and pictures of an explanation say them."""

from __future__ import annotations


def percent(share: float) -> str:
    """A share as a percentage of two significant digits.

    Examples:
        >>> percent(0.02), percent(0.0004), percent(0.347)
        ('2.0%', '0.040%', '35%')
    """
    number = 100 * share
    if number >= 9.95:
        return f"{number:.0f}%"
    return f"{number:.1f}%" if number >= 0.995 else f"{number:#.2g}%"
