"""The benchmark: ordinary training loops, each with an optimizer as it is used, on many tasks.

It does not share the engine of `evaluation/comparison/`. That engine trains update rules on pure
loss functions, many runs at once; here optimizers of other packages train modules with batch
normalisation, tied weights and schedulers, one run at a time, as their users do.

Read first: `workload.py` (a task), `contestants/contestant.py` (an optimizer), `training.py` (a
run). `plan.py` lists the runs, `runner.py` trains them, `records.py` keeps the results, and
`reports/` makes tables and a picture of them.
"""
