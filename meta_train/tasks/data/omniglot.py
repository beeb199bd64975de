"""Omniglot (Lake et al. 2015): 1623 handwritten characters of 50 alphabets, 20 drawings of each."""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from learned_opt.registry import look_up
from meta_train.runtime.progress import progress_bar
from meta_train.tasks.data.archives import damaged, data_folder, fetch, find, missing
from meta_train.tasks.data.array_cache import cache_file, read_array, write_array

PAGE = "github.com/brendenlake/omniglot"
PLACES = (".", "omniglot", "omniglot-py", "omniglot/python", "python")
DRAWINGS = 20
PIXELS = 105
"""Side of a published drawing in pixels."""
MAX_DRAWING = 2**20
"""Largest file of a drawing in bytes; the published ones have a few hundred."""


@dataclass(frozen=True)
class Part:
    """One of the two published sets of alphabets.

    Attributes:
        alphabets: number of alphabets.
        characters: number of characters in all alphabets.
        md5: checksum of the official archive.
    """

    alphabets: int
    characters: int
    md5: str


PARTS: dict[str, Part] = {
    "background": Part(30, 964, "68d2efa1b9178cc56df9314c21c6e718"),
    "evaluation": Part(20, 659, "6b91aef0f799c5bb55b94e3f2daec811"),
}


@dataclass(frozen=True)
class Omniglot:
    """Drawings of characters.

    Attributes:
        images: `[characters, 20, size, size]`, uint8; ink is 255, paper 0.
        alphabets: the alphabet of each character.
        characters: the name of each character in its alphabet, such as "character01".
    """

    images: np.ndarray
    alphabets: tuple[str, ...]
    characters: tuple[str, ...]


def read_omniglot(
    part: str,
    folder: str | None = None,
    *,
    size: int = 28,
    download: bool = False,
    progress: bool = True,
) -> Omniglot:
    """Read one of the two sets, sorted by alphabet and character.

    Reads the archive `images_<part>.zip`, or the folder unpacked from it, and caches the array in
    the user's cache folder (XDG_CACHE_HOME, by default ~/.cache).

    Args:
        part: "background" (30 alphabets) or "evaluation" (20 others).
        folder: the folder of the files. The default is the environment variable LEARNED_OPT_DATA.
        size: side of a drawing in pixels. Below the original 105, drawings are averaged over areas.
        download: download missing files with torchvision.
        progress: show a progress bar during the first reading.

    Raises:
        FileNotFoundError: a file is missing; the message says where it is published.
        ValueError: a file is damaged or incomplete, the part is unknown, or the size is out of
            range.
    """
    expected = look_up("part of Omniglot", part, PARTS)
    if not 1 <= size <= PIXELS:
        raise ValueError(f"size must be from 1 to {PIXELS}, got {size}")
    path = _locate(part, folder, download)
    try:
        with _opened(path) as drawings:
            return _cached(part, size, path, expected, drawings, progress)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        # zipfile raises RuntimeError for an encrypted archive.
        raise _damaged(path, error, expected) from error


@dataclass(frozen=True)
class _Drawings:
    """Open drawings by name, `alphabet/character/drawing.png`, with a fingerprint of each."""

    marks: Mapping[str, int | tuple[int, int]]
    read: Callable[[str], bytes]
    close: Callable[[], None]

    def __enter__(self) -> _Drawings:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _opened(path: Path) -> _Drawings:
    if path.is_dir():
        found = (p for p in path.glob("*/*/*.png") if not p.name.startswith("."))
        files = {_name(p.relative_to(path).as_posix()): p for p in found}
        stats = {name: p.stat() for name, p in files.items()}
        marks = {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}
        return _Drawings(marks, lambda name: files[name].read_bytes(), lambda: None)
    archive = zipfile.ZipFile(path)
    inside = {
        _name(item.filename): item
        for item in archive.infolist()
        if item.filename.endswith(".png")
        and "__MACOSX" not in item.filename
        and not PurePosixPath(item.filename).name.startswith(".")
    }
    for name, item in inside.items():
        if item.file_size > MAX_DRAWING:
            raise zipfile.BadZipFile(f"{name} unpacks to {item.file_size} bytes")
    crcs = {name: item.CRC for name, item in inside.items()}
    return _Drawings(crcs, lambda name: archive.read(inside[name]), archive.close)


def _name(path: str) -> str:
    return "/".join(PurePosixPath(path).parts[-3:])


def _locate(part: str, folder: str | None, download: bool) -> Path:
    where = data_folder(folder, "Omniglot")
    stem = f"images_{part}"
    names = (f"{stem}.zip", f"omniglot_{stem}.zip", stem)
    path = find(where, PLACES, names)
    if path is None and download:
        fetch("Omniglot", where, [{"background": part == "background"}])
        path = find(where, PLACES, names)
    if path is None:
        raise missing("Omniglot", names, where, PAGE)
    # Some programs unpack an archive into a folder named like it.
    return path / stem if (path / stem).is_dir() else path


def _damaged(path: Path, why: object, expected: Part) -> ValueError:
    if path.is_file():
        actual = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        why = f"{why} (its md5 is {actual}, the official archive's {expected.md5})"
    return damaged(path, why, PAGE)


def _check_complete(path: Path, names: Iterable[str], expected: Part) -> dict[str, list[str]]:
    """Sorted drawings by character. Only the content counts: the archive may be zipped again."""
    by_character: dict[str, list[str]] = {}
    for name in sorted(names):
        by_character.setdefault(name.rpartition("/")[0], []).append(name)
    alphabets = {character.partition("/")[0] for character in by_character}
    found = f"{len(alphabets)} alphabets with {len(by_character)} characters"
    wanted = f"{expected.alphabets} alphabets with {expected.characters} characters"
    if found != wanted:
        raise _damaged(path, f"it holds {found}, not {wanted}", expected)
    for character, drawings in by_character.items():
        if len(drawings) != DRAWINGS:
            why = f"{character} has {len(drawings)} drawings, not {DRAWINGS}"
            raise _damaged(path, why, expected)
    return by_character


def _cached(
    part: str, size: int, path: Path, expected: Part, drawings: _Drawings, progress: bool
) -> Omniglot:
    by_character = _check_complete(path, drawings.marks, expected)
    content = repr(sorted(drawings.marks.items())).encode()
    key = hashlib.sha256(content).hexdigest()[:16]
    cache = cache_file(f"omniglot-{part}-{size}-{key}.npz", "Omniglot")
    shape = (len(by_character), DRAWINGS, size, size)
    images = None if cache is None else read_array(cache, shape)
    if images is None:
        terminal = sys.stderr is not None and sys.stderr.isatty()
        with progress_bar(
            len(by_character) * DRAWINGS,
            "image",
            show=progress and terminal,
            desc=f"reading Omniglot, {part}",
        ) as bar:
            images = np.empty(shape, np.uint8)
            for row, names in enumerate(by_character.values()):
                for column, name in enumerate(names):
                    images[row, column] = _decode(path, name, drawings.read(name), size, expected)
                bar.update(len(names))
        if cache is not None:
            write_array(cache, images, "Omniglot")
    alphabets, characters = zip(*(name.split("/") for name in by_character), strict=True)
    return Omniglot(images, alphabets, characters)


def _decode(path: Path, name: str, content: bytes, size: int, expected: Part) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError  # of the extra "meta"

    try:
        image: Image.Image = Image.open(io.BytesIO(content))
        size_found = image.size  # before the pixels, which may be many, are unpacked
        if size_found == (PIXELS, PIXELS):
            image = image.convert("L")
    except Exception as error:  # Pillow raises many types for a broken PNG
        # Pillow's message for unknown content contains a memory address.
        why = "no image" if isinstance(error, UnidentifiedImageError) else error
        raise _damaged(path, f"{name} is no drawing ({why})", expected) from error
    if size_found != (PIXELS, PIXELS):
        raise _damaged(path, f"{name} is {size_found}, not {PIXELS} x {PIXELS} pixels", expected)
    if size != PIXELS:
        image = image.resize((size, size), Image.Resampling.BOX)
    return 255 - np.asarray(image)
