"""The few-shot methods by name, and the settings that each one is made of.

`spec.py` is a row, and `settings.py` what it may set. Rows are in `initializations.py`,
`learned_rules.py`, `embeddings.py` and `readers.py`; `registry.py` joins them.
"""
