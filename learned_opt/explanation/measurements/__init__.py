"""The measurements of an explanation, one file for each panel of the page.

`probe.py` feeds gradients to a rule, `trainings.py` trains small networks with it, and
`measured.py` makes all measurements. No file here draws.
"""
