"""The outer loop: applies meta-gradients, logs, checkpoints and resumes.

`trainer.py` is the loop, and `build.py` makes its parts from `settings.py`. `outer_step.py` takes
one step, `meta_optimizer.py` applies it, and `model_selection.py` keeps the best average.
`training_state.py` gathers what a checkpoint holds, and `checkpoint.py` reads and writes it.
`tensorboard.py` and `rule_log.py` write logs.
"""
