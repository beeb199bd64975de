"""Classifiers on top of an embedding: compared by distance, or solved in closed form."""
