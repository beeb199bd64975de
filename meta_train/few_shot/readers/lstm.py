"""An LSTM that reads the training set (Hochreiter et al. 2001; baseline of Santoro et al. 2016)."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from meta_train.few_shot.readers.base import SequenceReader
from meta_train.runtime.checks import check_at_least


@final
class LSTMReader(SequenceReader):
    """One LSTM layer and a linear layer. What it remembers must fit into its cells.

    Args:
        pixels: numbers per image.
        ways: classes per sequence (N).
        units: cells of the LSTM.

    Raises:
        ValueError: `units` is below 1.
    """

    def __init__(self, pixels: int, ways: int, *, units: int = 200) -> None:
        super().__init__(pixels, ways)
        check_at_least(1, units=units)
        self.lstm = nn.LSTM(pixels + ways, units, batch_first=True)
        self.head = nn.Linear(units, ways)

    def scores(self, inputs: Tensor) -> Tensor:
        """See `SequenceReader`."""
        hidden, _ = self.lstm(inputs)
        scores: Tensor = self.head(hidden)
        return scores
