"""Checks of arguments, settings and results of rules, with errors of one line."""
