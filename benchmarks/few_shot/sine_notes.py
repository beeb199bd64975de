"""What the document of the sine curves says beside its tables."""

HEADER = """# Sine curves from a few points, measured

Written by `python benchmarks/few_shot/sine.py` from `docs/measured/sine.json`; what each row is
stands in
[the few-shot table](few_shot.md#rows). The toy of Finn et al. 2017: amplitude 0.1 to 5, phase 0 to
pi, x in -5 to 5, a network of 40-40 ReLU units. Mean squared error on 100 points of each of 1000
curves (the same for all rows) with its 95% interval, after steps of inner training. Inner rate 0.01
where it is not learned (0.02 for Reptile by SGD, 0.005 for iMAML); seed 0. "Rate" is the outer
one; after a plus are the minutes of the MAML that a row begins with.

**How long.** The paper has 70,000 outer steps at a rate of 0.001. So were maml trained, from both
numbers of points, and fomaml and anil from 10; from there, maml-further and learned-gated-lstm
took 3000 steps more. All others have the rows' own short training at up to three times the rate
(meta-sgd from 10 points seven times that at twice the rate), and are far from converged: compare
rows that took the same number of steps. The rate falls in a cosine to 5%, the gradient is clipped
at 10, Adam's betas are 0.9 and 0.99 (Reptile: SGD, linear to 0, not clipped), and the moving
average of the weights is tested; the paper's rate is constant, without averaging.

**What was tuned.** Objective and horizons of learned rules (the sum of the errors after 1, 2 or 10
steps; `meta_train/few_shot/methods/presets.py`) were chosen by learned-gated-lstm's error on the
curves of these tables, and maml-further has the same: so the comparison at the end is on fresh
ones. The fixed inner rate is the paper's.

**Curves** show one task; one that is not to be seen has left the panel.
"""
PAIRED = """## learned-gated-lstm curve by curve

On 1000 other curves than above, which nothing was chosen by. By how much its error is below
another's, mean over the curves of the differences with its 95% interval; on how many of the curves
it is lower; and both medians. From few points a mean can hang on a few curves, on which a fixed
step blows up: the median does not.
"""
BEYOND = (
    "{row} is trained and meant for {steps} steps, held to where it starts by lambda {pull:g}:\n"
    "after them it has {cell}. After fewer, its meta-gradient does not hold.\n"
)
SEEDS = """## Over seeds of meta-training

`python benchmarks/few_shot/sine_seeds.py` trains anew, from other initial weights and on other
curves, what
the comparison above is of, each row by the same command but for its seed. Mean and standard
deviation over seeds (that of the tables above among them) of the median of the squared errors on
the same 1000 fresh curves; and in how many of the seeds learned-gated-lstm is below maml, and below
maml-further, too, by that median and by the mean over the curves, which can hang on a few of them.
"""
