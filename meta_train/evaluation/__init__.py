"""Compare an optimizer with tuned baselines, and report what was measured."""
