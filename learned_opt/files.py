"""Reads and writes safetensors files with facts in the header, completely or not at all."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], format: str, metadata: Mapping[str, str]
) -> None:
    """Write a file that `read_tensors` reads.

    Args:
        path: the file; an existing one is replaced.
        tensors: tensors by name.
        format: the name of the format, kept in the header.
        metadata: the rest of the header.

    Raises:
        OSError: the file cannot be written; the message names it, and an old file is unchanged.
    """
    # Copies: tensors of a state may share memory, which the format does not allow.
    content = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
    write_atomically(path, save(content, metadata={"format": format, **metadata}))


def read_tensors(path: Path, format: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and header of a file that `write_tensors` wrote under the same `format`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: damaged, truncated, or of another format; the message names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"file {path} does not exist")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in list(file.keys())}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from None
    if metadata.get("format") != format:
        raise ValueError(f"{path} is a safetensors file, but not of the format {format}")
    return tensors, metadata


def check_version(path: str | os.PathLike[str], metadata: Mapping[str, str], known: int) -> None:
    """Check the format version of a file.

    Raises:
        ValueError: an unknown version, or none; the message names the file.
    """
    version = metadata.get("version")
    if version is None:
        raise ValueError(f"{path} is damaged: its header has no format version")
    if version != str(known):
        raise ValueError(
            f"{path} has format version {version!r}, this version of learned_opt reads {known}: "
            "a newer version may have written it"
        )


def write_atomically(path: Path, content: bytes) -> None:
    """Write a temporary file beside the target, sync it, and rename it to the target.

    The target is always a complete file, the old one or the new one.

    Raises:
        OSError: the file cannot be written; the message names it, and nothing is left behind.
    """
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes 0600: others could not read it
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, f"could not write {path}: {error.strerror}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut; Windows cannot sync folders."""
    if sys.platform != "win32":
        handle = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
