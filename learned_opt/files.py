"""Tensors on disk: safetensors with facts in the header, written whole or not at all."""

from __future__ import annotations

import os
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
        path: where to; an existing file is replaced.
        tensors: by name.
        format: says whose file it is.
        metadata: the rest of the header.

    Raises:
        OSError: the disk is full, say; the message names the file, and the old one is as it was.
    """
    # Copies: two tensors of a state may share memory, which the format does not allow.
    content = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
    write_atomically(path, save(content, metadata={"format": format, **metadata}))


def read_tensors(path: Path, format: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and header of a file that `write_tensors` wrote under the same `format`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: damaged, truncated, or not of this format; the message names the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
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
    """Check that a file's version is the known one.

    Raises:
        ValueError: it is another one, or the file does not say; the message names the file.
    """
    version = metadata.get("version")
    if version is None:
        raise ValueError(f"{path} does not say its format version: it is damaged")
    if version != str(known):
        raise ValueError(
            f"{path} is of format version {version!r}, not {known}: "
            "a newer version of learned_opt may have written it"
        )


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the target, sync, rename: the target is the old file or the new one, whole.

    Raises:
        OSError: with the target's name; no part of a file is left behind.
    """
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's own 0600 would hide the file from others
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, f"could not write {path}: {error.strerror}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut (where the system lets folders be synced)."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
