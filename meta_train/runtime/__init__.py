"""What everything else stands on: devices, processes, seeds, signals and checkpoint files."""
