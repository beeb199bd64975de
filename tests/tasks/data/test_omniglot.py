"""Omniglot: a small archive in the official layout, broken ones, and the real one where it is."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from meta_train.tasks.data import omniglot
from meta_train.tasks.data.array_cache import cache_folder
from meta_train.tasks.data.omniglot import PARTS, Part, read_omniglot

CHARACTERS = ["Greek/character01", "Greek/character02", "Latin/character01"]
REAL = [
    folder
    for folder in (
        os.environ.get("LEARNED_OPT_DATA"),
        str(Path(__file__).parents[4] / "shared" / "data"),
    )
    if folder
    and any((Path(folder) / f"{p}images_background.zip").is_file() for p in ("", "omniglot_"))
]


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(PARTS, "background", Part(2, 3, "0" * 32))


def drawing(character, number, size=105):
    pixels = np.full((size, size), 255, np.uint8)
    pixels[: 5 * character + 15, :number] = 0
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert("1").save(buffer, "PNG")
    return buffer.getvalue()


def drawings():
    return {
        f"{name}/{k:04d}_{n:02d}.png": drawing(k, n)
        for k, name in enumerate(CHARACTERS)
        for n in range(1, 21)
    }


def write(folder, content, *, zipped=True, name="images_background"):
    folder.mkdir(exist_ok=True)
    if not zipped:
        for path, data in content.items():
            target = folder / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        return folder / name
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
        archive.writestr("__MACOSX/images_background/Greek/character01/._0000_01.png", b"")
        for path, data in content.items():
            archive.writestr(f"images_background/{path}", data)
    return folder / f"{name}.zip"


def read(folder, **settings):
    return read_omniglot("background", str(folder), progress=False, **settings)


@pytest.mark.parametrize("zipped", [True, False])
def test_drawings_come_in_order_with_their_names(tmp_path, zipped):
    write(tmp_path / "data", drawings(), zipped=zipped)
    result = read(tmp_path / "data", size=105)
    assert result.images.shape == (3, 20, 105, 105) and result.images.dtype == np.uint8
    for k in range(3):
        for n in range(20):
            assert result.images[k, n].sum() == 255 * (5 * k + 15) * (n + 1)
    assert result.alphabets == ("Greek", "Greek", "Latin")
    assert result.characters == ("character01", "character02", "character01")


def test_smaller_images_are_means_over_areas(tmp_path):
    write(tmp_path, drawings())
    large, small = read(tmp_path, size=105).images, read(tmp_path, size=21).images
    expected = large.reshape(3, 20, 21, 5, 21, 5).mean((3, 5))
    assert np.abs(small - expected).max() <= 1
    assert read(tmp_path).images.shape == (3, 20, 28, 28)


def test_the_second_reading_is_from_the_cache(tmp_path, monkeypatch):
    write(tmp_path, drawings())
    first = read(tmp_path)
    (cache,) = cache_folder().iterdir()
    assert cache.suffix == ".npz"

    def fail(*_):
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr(omniglot, "_decode", fail)
        assert np.array_equal(read(tmp_path).images, first.images)
        with pytest.raises(AssertionError, match="decoded again"):
            read(tmp_path, size=14)
    cache.write_bytes(cache.read_bytes()[:100])
    assert np.array_equal(read(tmp_path).images, first.images)
    changed = {**drawings(), "Greek/character01/0000_01.png": drawing(2, 9)}
    write(tmp_path, changed)
    assert not np.array_equal(read(tmp_path).images, first.images)


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, monkeypatch):
    write(tmp_path, drawings())
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="Omniglot is not cached"):
        assert read(tmp_path).images.shape == (3, 20, 28, 28)


def test_missing_files_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no images_background.zip.*brendenlake/omniglot"):
        read(tmp_path)
    monkeypatch.delenv("LEARNED_OPT_DATA", raising=False)
    with pytest.raises(ValueError, match="LEARNED_OPT_DATA"):
        read_omniglot("background")
    with pytest.raises(ValueError, match="did you mean 'background'"):
        read_omniglot("backgroud", str(tmp_path))
    with pytest.raises(ValueError, match="size must be from 1 to 105, got 106"):
        read(tmp_path, size=106)


def without(name):
    return {path: data for path, data in drawings().items() if not path.startswith(name)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (without("Latin"), "it holds 1 alphabets with 2 characters, not 2 alphabets with 3"),
        (without("Latin/character01/0002_20"), "Latin/character01 has 19 drawings, not 20"),
        (
            {**drawings(), "Latin/character01/0002_20.png": b"GIF"},
            "0002_20.png is no drawing .no image",
        ),
        (
            {**drawings(), "Latin/character01/0002_20.png": drawing(1, 1, size=90)},
            r"0002_20.png is \(90, 90\), not 105 x 105 pixels",
        ),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_incomplete_and_damaged_drawings_are_named(tmp_path, content, message, zipped):
    path = write(tmp_path, content, zipped=zipped)
    with pytest.raises(ValueError, match=f"{path.name} is damaged: .*{message}"):
        read(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
def test_files_that_a_file_system_adds_are_ignored(tmp_path, zipped):
    write(tmp_path / "a", drawings(), zipped=zipped)
    expected = read(tmp_path / "a")
    write(tmp_path / "b", {**drawings(), "Latin/character01/._0002_20.png": b"?"}, zipped=zipped)
    assert (read(tmp_path / "b").images == expected.images).all()


def test_swapped_drawings_are_read_again(tmp_path):
    longest = max(map(len, drawings().values()))  # of equal sizes: those would not tell
    padded = {name: data.ljust(longest, b"\0") for name, data in drawings().items()}
    write(tmp_path, padded, zipped=False)
    before = read(tmp_path)
    first, second = (
        next(tmp_path.rglob(f"{name}/*_01.png")) for name in ("character01", "character02")
    )
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    after = read(tmp_path)
    assert not (after.images == before.images).all()


def test_a_truncated_or_corrupted_archive_is_named_with_its_checksum(tmp_path):
    path = write(tmp_path, drawings())
    whole = path.read_bytes()
    start = whole.index(b"IDAT", 5000)
    for content in (whole[: len(whole) // 2], whole[:start] + b"XXXX" + whole[start + 4 :]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"images_background.zip is damaged: .*md5 is \w+"):
            read(tmp_path)


def test_drawings_that_unpack_to_more_than_a_drawing_are_not_unpacked(tmp_path, monkeypatch):
    content = {**drawings(), "Latin/character01/0002_20.png": bytes(2**20 + 1)}
    write(tmp_path / "a", content)
    with pytest.raises(ValueError, match="0002_20.png unpacks to 1048577 bytes"):
        read(tmp_path / "a")
    content = {**drawings(), "Greek/character01/0000_01.png": drawing(1, 1, size=9_000)}
    write(tmp_path / "b", content)
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(ValueError, match=r"0000_01.png is \(9000, 9000\), not 105 x 105"):
        read(tmp_path / "b")


@pytest.mark.skipif(not REAL, reason="no Omniglot in ../shared/data or LEARNED_OPT_DATA")
def test_the_real_background_set_is_complete(monkeypatch):
    monkeypatch.setitem(PARTS, "background", Part(30, 964, ""))
    result = read(REAL[0])
    assert result.images.shape == (964, 20, 28, 28)
    assert len(set(result.alphabets)) == 30
    assert result.alphabets.count("Greek") == 24
    assert 0.05 < result.images.mean() / 255 < 0.12


def test_a_folder_inside_a_folder_of_the_same_name_is_read(tmp_path):
    write(tmp_path, drawings(), zipped=False, name="images_background/images_background")
    found = read_omniglot("background", str(tmp_path), progress=False)
    assert found.images.shape == (3, 20, 28, 28)


def test_without_a_home_folder_nothing_is_cached(tmp_path, monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    write(tmp_path, drawings())
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nobody)
    with pytest.warns(UserWarning, match="Omniglot is not cached: Could not determine home"):
        found = read_omniglot("background", str(tmp_path), progress=False)
    assert found.images.shape == (3, 20, 28, 28)


def test_where_the_folder_is(tmp_path, monkeypatch):
    archive = write(tmp_path / "data", drawings())
    with pytest.raises(ValueError, match="images_background.zip is a file: give the folder"):
        read_omniglot("background", str(archive), progress=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(read_omniglot("background", "~/data", progress=False).images) == 3
