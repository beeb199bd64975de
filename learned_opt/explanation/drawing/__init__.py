"""Draws the measurements of an explanation on one page. Needs matplotlib."""
