"""Colours and lines of the page. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.colors import LinearSegmentedColormap

OWN = "#c8412f"
"""The colour of the rule that is explained."""

INK = "#2b2f36"
FAINT = "#d9dce1"
GREYS: Sequence[Mapping[str, Any]] = (
    {"color": "#4d5663", "linewidth": 1.3, "linestyle": "-"},
    {"color": "#9aa3b0", "linewidth": 1.3, "linestyle": (0, (4, 1.5))},
    {"color": "#4d5663", "linewidth": 1.3, "linestyle": (0, (1, 1.2))},
    {"color": "#b9bfc8", "linewidth": 1.3, "linestyle": "-"},
)
"""Lines of the rules that it is compared with; a fifth one looks like the first."""

SHADES = LinearSegmentedColormap.from_list("own", ["#f6ddd6", OWN, "#4a0f0b"])
"""From light to dark, for steps and trainings."""

DIVERGING = LinearSegmentedColormap.from_list("sizes", ["#3f6f9f", "#f4f1ee", OWN])
