"""Entry point of `python -m meta_train`."""

import sys

EXTRA = {"higher", "jsonargparse", "matplotlib", "PIL", "sklearn", "tensorboard", "tqdm"}
"""Modules that the extra "meta" brings."""

try:
    from meta_train.jobs.cli import main

    sys.exit(main())
except ModuleNotFoundError as missing:
    if missing.name is None or missing.name.partition(".")[0] not in EXTRA:
        raise
    sys.exit(
        f"python -m meta_train needs {missing.name}, which is not installed: "
        "python -m pip install 'learned-opt[meta]'"
    )
