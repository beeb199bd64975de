"""A disk on which no file grows any more; the operating system refuses each write (Unix only)."""

import resource
from contextlib import contextmanager


@contextmanager
def full_disk():
    """Let every write of this process to a file fail with "File too large"."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
