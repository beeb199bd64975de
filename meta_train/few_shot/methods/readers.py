"""Networks that read the training set."""

from __future__ import annotations

from dataclasses import replace

from meta_train.few_shot.methods.presets import READER
from meta_train.few_shot.methods.spec import FewShotMethod

SANTORO = "Santoro et al. 2016, arXiv 1605.06065"
FIRST_AND_LATER = (1, 2, 3, 4, 5, 10)
"""Instances of a class whose accuracies Santoro et al. give (table 1, one-hot labels)."""

READERS = {
    "lstm-reader": FewShotMethod(
        source=f"{SANTORO}: the LSTM beside it, which reads the training set",
        omniglot=replace(READER, reader="lstm"),
        sine=None,
        published_by_instance=dict(
            zip(FIRST_AND_LATER, (24.4, 49.5, 55.3, 61.0, 63.6, 62.5), strict=True)
        ),
    ),
    "mann": FewShotMethod(
        source=f"{SANTORO}: a network with an external memory reads the training set",
        omniglot=replace(READER, reader="mann"),
        sine=None,
        published_by_instance=dict(
            zip(FIRST_AND_LATER, (36.4, 82.8, 91.0, 92.6, 94.9, 98.1), strict=True)
        ),
    ),
}
