"""Jobs of the command line: meta-training with a comparison, and few-shot learning."""
