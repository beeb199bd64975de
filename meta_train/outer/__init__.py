"""The outer loop: applies meta-gradients, logs, checkpoints and resumes."""
