"""Evaluation of optimizers.

`comparison/` compares a rule with tuned baselines on tasks that it has not seen, `validation/`
selects the weights to keep during meta-training, and `benchmark/` compares optimizers in ordinary
training loops.
"""
