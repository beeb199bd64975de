"""Classifiers on a learned embedding: by distance, or solved in closed form."""
