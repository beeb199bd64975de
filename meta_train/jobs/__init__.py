"""Jobs of the command line, one file or folder each.

`meta_training.py` is the main job, `few_shot/`, `benchmark/` and `explain.py` are the others.
`cli.py` chooses the job; `command.py`, `run_folders.py` and `run_texts.py` serve several.
"""
