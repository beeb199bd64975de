"""Entry point of `python -m meta_train`."""

import sys

from meta_train.jobs.cli import main

sys.exit(main())
