"""Few-shot learning: episodes, embeddings that are compared, evaluation, and the table of rows."""
