"""Steps by PyTorch operations in place, on blocks that stay in the cache: for any CPU.

`rows.py` is the memory of a block, `coordinate_step.py` the loop over blocks of coordinate-wise
rules, and `lstm_cell.py` their cell. `step_size_lstm.py` steps whole tensors, which
`tensor_blocks.py` cuts and joins.
"""
