"""Losses with a margin, which train an embedding on all classes at once."""
