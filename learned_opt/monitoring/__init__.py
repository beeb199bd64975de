"""Gate values and update sizes of a learned optimizer, in TensorBoard.

`monitor.py` is `GateMonitor`. `attachment.py` hooks it to an optimizer, and `observation.py` reads
values from a step. `rule_board.py` writes them: charts (`charts.py`) and pictures (`heat_maps.py`,
`steering_figure.py`). `event_writer.py` writes TensorBoard's files.
"""

from learned_opt.monitoring.monitor import GateMonitor

__all__ = ["GateMonitor"]
