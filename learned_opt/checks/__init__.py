"""Checks of arguments and settings, with errors of one line."""
