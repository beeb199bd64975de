"""How long does one outer step of a few-shot method take?

    python benchmarks/speed/few_shot_step.py --row meta-lstm --folder FOLDER

Prints milliseconds of processor time of an outer step on Omniglot, the median over several, and the
peak of resident memory. FOLDER holds the Omniglot archives.
"""

import argparse
import resource
import statistics
from pathlib import Path

import torch
from measuring import seconds

from meta_train.few_shot.settings import FewShotConfig
from meta_train.few_shot.training import make_trainer


def main(row, folder, shots, outer_steps, threads):
    torch.set_num_threads(threads)
    config = FewShotConfig(row=row, data="omniglot", folder=folder, shots=shots)
    trainer = make_trainer(row, config, torch.device("cpu"), folder=None)
    trainer.take_outer_step()
    took = [seconds(trainer.take_outer_step, processor=True) for _ in range(outer_steps)]
    learned = sum(value.numel() for value in trainer.meta_parameters.values)
    print(f"torch {torch.__version__}, threads: {threads}")
    print(
        f"{row}, 5-way {shots}-shot: {1e3 * statistics.median(took):.0f} ms an outer step of "
        f"{trainer.settings.runs} episodes, {trainer.settings.horizons} inner steps, {learned:,} "
        f"coordinates; peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--row", default="meta-lstm", help="a method by name")
    parser.add_argument("--folder", type=Path, help="folder of the Omniglot archives")
    parser.add_argument("--shots", type=int, default=1)
    parser.add_argument("--outer-steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    main(**vars(parser.parse_args()))
