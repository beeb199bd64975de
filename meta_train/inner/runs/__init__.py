"""Inner runs between outer steps: their problems, lengths, data and states."""
