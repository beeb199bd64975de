"""Few-shot learning: methods, episodes, meta-training, evaluation, tables and plots.

`methods/` lists the methods, each as settings. Those without inner steps get their networks from
`heads/` (classifiers on an embedding), `margins/` (losses on all classes) or `readers/` (networks
that read a training set). `episodes.py` makes the tasks of a method, `training.py` trains it, and
`evaluation.py` tests it. `trained.py` is the result; `table.py`, `plots.py` and
`embedding_plot.py` show it.
"""
