"""Runtime: devices, processes, seeds, signals, checkpoint files and checks of settings.

No file here knows a task or a rule.
"""
