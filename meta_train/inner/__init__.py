"""Inner training: pure, differentiable steps for one run or for many at once.

`loop.py` is one step, made of the parts in `step/`. `unroll.py` takes several. `runs/` keeps runs
between outer steps: how they begin, how long they are, and where they stand.
"""
