"""Comparison of a rule with tuned baselines on held-out tasks: trainings, tables and pictures."""
