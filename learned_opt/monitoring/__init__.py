"""Gate values and update sizes of a learned optimizer, in TensorBoard."""

from learned_opt.monitoring.monitor import GateMonitor

__all__ = ["GateMonitor"]
