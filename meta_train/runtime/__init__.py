"""Runtime: devices, processes, seeds, signals, checkpoint files and checks of settings."""
