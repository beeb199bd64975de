"""Few-shot learning: methods, episodes, meta-training, evaluation, tables and plots."""
