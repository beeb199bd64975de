"""Watch an optimizer at work: gate values and update sizes in TensorBoard."""

from learned_opt.monitoring.monitor import GateMonitor

__all__ = ["GateMonitor"]
