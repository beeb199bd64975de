"""Reads and writes safetensors files with facts in the header, completely or not at all.

The header holds a digest of the whole file, so that a changed bit is found. Files of earlier
versions have none; they are read as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import stat
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from learned_opt.checks.arguments import check_path
from learned_opt.real_tensors import real_tensors

NO_DIGEST = "0" * 64
"""Stands for the digest while the digest is computed."""

MAX_NESTING = 32
"""Deepest nesting of lists and objects in a header."""

MAX_MESSAGE = 300
"""Most characters of another error in a message."""


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
    copies = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
    header = {"format": format, **metadata, "digest": NO_DIGEST}
    content = bytearray(safetensors.torch.save(copies, metadata=header))
    _sort_metadata(content)
    place = _digest_place(content, NO_DIGEST)
    content[place] = _digest(content, place).encode()
    write_atomically(path, content)


def read_tensors(
    path: Path, format: str, fields: Collection[str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and header of a file that `write_tensors` wrote under the same `format`.

    The tensors are copies on the CPU; what happens to the file afterwards does not change them.

    Args:
        path: the file.
        format: the name of the format.
        fields: the names of `metadata`; a file without a digest may have no others.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: damaged, truncated, or of another format; the message names the file.
    """
    path = expand(path)
    if not path.is_file():
        raise FileNotFoundError(f"file {path} does not exist")
    try:
        content = path.read_bytes()
        with real_tensors(), torch.device("cpu"):
            tensors = safetensors.torch.load(content)
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise errors of many types
        raise ValueError(
            f"{path} is damaged or not a safetensors file: {one_line(error)}"
        ) from None
    if "digest" in metadata:
        written = metadata.pop("digest")
        if _digest(content, _digest_place(content, written)) != written:
            raise ValueError(f"{path} is damaged: its content does not match its digest")
    if metadata.get("format") != format:
        raise ValueError(f"{path} is a safetensors file, but not of the format {format}")
    if unknown := sorted(metadata.keys() - {"format", *fields}):
        raise ValueError(f"{path} is damaged: unknown header field {unknown[0][:40]!r}")
    return tensors, metadata


def _sort_metadata(content: bytearray) -> None:
    """Sort the metadata of a safetensors file, which safetensors writes in random order.

    So equal tensors and facts make equal files.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the tensors so
    content[:end] = len(text).to_bytes(8, "little") + text


def _digest_place(content: bytes | bytearray, digest: str) -> slice:
    """Where the header holds the digest; a wrong place, if it is not spelled as written."""
    # Quotes inside of other fields are escaped, so that this is no part of them.
    start = content.find(b'"digest":"' + digest.encode() + b'"') + len(b'"digest":"')
    return slice(start, start + len(digest))


def _digest(content: bytes | bytearray, place: slice) -> str:
    """SHA-256 of a file in which the digest itself counts as zeros."""
    view = memoryview(content)
    digest = hashlib.sha256(view[: place.start])
    digest.update(NO_DIGEST.encode())
    digest.update(view[place.stop :])
    return digest.hexdigest()


def read_json(text: str) -> Any:
    """Read JSON from a header.

    Raises:
        ValueError: no JSON, or nested deeper than `MAX_NESTING`.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"lists are nested deeper than {MAX_NESTING}") from None
    layer, depth = [value], 0
    while layer := [
        item
        for container in layer
        if isinstance(container, (list, dict))
        for item in (container.values() if isinstance(container, dict) else container)
    ]:
        depth += 1
        if depth > MAX_NESTING:
            raise ValueError(f"lists are nested deeper than {MAX_NESTING}")
    return value


def one_line(error: BaseException) -> str:
    """The message of an error in one line of at most `MAX_MESSAGE` characters."""
    text = " ".join(str(error)[: 10 * MAX_MESSAGE].split()) or type(error).__name__
    if isinstance(error, KeyError):
        text = f"it lacks {text}"
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]} ..."


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
            f"{path} has format version {version[:40]!r}, this version of learned_opt reads "
            f"{known}: a newer version may have written it"
        )


def expand(path: str | os.PathLike[str], name: str = "path") -> Path:
    """A path with `~` replaced by the home folder, as a shell does it.

    Args:
        path: the path.
        name: of the argument, for the message.

    Raises:
        TypeError: not a path.
    """
    check_path(name, path)
    return Path(os.path.expanduser(path))


def write_atomically(path: Path, content: bytes | bytearray) -> None:
    """Write a temporary file beside the target, sync it, and rename it to the target.

    The target is always a complete file, the old one or the new one. It keeps the mode of the old
    one; a new one gets the mode that `open` would give it. Temporary files that killed processes
    left beside the target are deleted.

    Raises:
        OSError: the file cannot be written; the message names it, and nothing is left behind.
    """
    path = expand(path)
    temporary = None
    try:
        _remove_leftovers(path)
        handle, temporary = _open_temporary(path)
        with os.fdopen(handle, "wb") as file:
            if path.exists():
                os.chmod(temporary, stat.S_IMODE(path.stat().st_mode))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, f"could not write {path}: {error.strerror}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _open_temporary(path: Path) -> tuple[int, Path]:
    """Create a hidden file beside the target, locked as long as this process has it open."""
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        handle = os.open(temporary, OPEN_FLAGS | os.O_CREAT | os.O_EXCL, 0o666)
        _lock(handle)
        if temporary.exists():
            return handle, temporary
        os.close(handle)  # another process took it for a leftover before it was locked


def _remove_leftovers(path: Path) -> None:
    """Delete temporary files of a target that no living process has open."""
    name = re.compile(re.escape(f".{path.name}.") + "[0-9a-f]{8}\\.tmp")
    with suppress(OSError):  # a folder that can be written need not be readable
        for leftover in [p for p in path.parent.iterdir() if name.fullmatch(p.name)]:
            with suppress(OSError):  # gone by now, in use, or another user's
                _delete_if_unused(leftover)


if sys.platform == "win32":
    OPEN_FLAGS = os.O_WRONLY | os.O_BINARY

    def _lock(handle: int) -> None:
        """Do nothing: Windows deletes no file that is open."""

    def _delete_if_unused(path: Path) -> None:
        path.unlink(missing_ok=True)

else:
    import fcntl

    OPEN_FLAGS = os.O_WRONLY

    def _lock(handle: int) -> None:
        """Lock a file until it is closed, where the file system has locks."""
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)

    def _delete_if_unused(path: Path) -> None:
        """Delete a file.

        Raises:
            OSError: another process has locked it, or the file system has no locks.
        """
        handle = os.open(path, OPEN_FLAGS)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        finally:
            os.close(handle)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut; Windows cannot sync folders."""
    if sys.platform != "win32":
        handle = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
