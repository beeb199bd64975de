"""The benchmark: ordinary training loops, each with an optimizer as it is used, on many tasks.

It does not use the engine of `meta_train.evaluation.compare`. That engine trains update rules on
pure loss functions, many runs at once; here optimizers of other packages train modules with batch
normalisation, tied weights and schedulers, one run at a time, as their users do.

Read first: `workload.py` (a task), `contestant.py` (an optimizer), `training.py` (a run).
"""
