"""Evaluation: comparison with tuned baselines, validation, tables and pictures."""
