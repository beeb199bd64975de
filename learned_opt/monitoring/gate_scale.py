"""Shows a gate that stays near 0 or 1 by the logarithm of the distance."""

from __future__ import annotations

import numpy as np

from learned_opt.monitoring.observation import Floats

NEAR = 0.1
"""A gate that stays this close to 0 or to 1 is shown by the logarithm of the distance."""

SMALLEST = 1e-8
"""Lower limit of a distance before its logarithm is taken: float32 ends there beside 1."""


def on_used_scale(values: Floats, gate: str) -> tuple[str, Floats]:
    """The values as they are shown, and the name of that quantity.

    Of a gate that stays near 0 or 1, the logarithm of the distance: between .9990 and .9996 the
    memory of the cell, 1 / (1 - f) steps, more than doubles.

    Args:
        values: of the gate; may have NaN.
        gate: its name, such as "lstm_forget".

    Returns:
        "" and the values; or "log10(1 - f)" or "log10(f)", and those logarithms.
    """
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return "", values
    ordered = np.sort(finite, axis=None)  # several times faster than np.percentile
    rank = (len(ordered) - 1) // 100
    low, high = ordered[rank], ordered[-1 - rank]
    letter = gate.rpartition("_")[2][:1]
    if low > 1 - NEAR:
        return f"log10(1 - {letter})", np.log10(np.maximum(1 - values, SMALLEST))
    if high < NEAR:
        return f"log10({letter})", np.log10(np.maximum(values, SMALLEST))
    return "", values
