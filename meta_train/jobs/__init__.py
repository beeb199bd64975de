"""What the command line runs: meta-training with a comparison, and few-shot learning."""
