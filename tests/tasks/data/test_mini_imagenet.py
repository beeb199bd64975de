"""miniImageNet: a small set in the official layout, and broken ones."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from meta_train.tasks.data import mini_imagenet
from meta_train.tasks.data.array_cache import cache_folder
from meta_train.tasks.data.mini_imagenet import read_mini_imagenet

CLASSES = {"train": 64, "val": 16, "test": 20}
PER_CLASS = 2


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def picture(colour, size=(84, 84), mode="RGB"):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def rows_of(split):
    """(file, class) pairs; the last class and the last file come first."""
    first = {"train": 0, "val": 64, "test": 80}[split]
    return [
        (f"n{c:08d}{k:08d}.jpg", f"n{c:08d}")
        for c in reversed(range(first, first + CLASSES[split]))
        for k in reversed(range(PER_CLASS))
    ]


def write_table(folder, split, rows, header=("filename", "label")):
    with (folder / f"{split}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def write(folder, splits=("test",)):
    """The official layout, with two images per class; their colours tell class and number."""
    (folder / "images").mkdir(parents=True)
    for split in splits:
        write_table(folder, split, rows_of(split))
        for file, label in rows_of(split):
            content = picture((int(label[1:]), 100 + int(file[9:17]), 7))
            (folder / "images" / file).write_bytes(content)
    return folder


def read(folder, split="test"):
    return read_mini_imagenet(split, str(folder), progress=False)


@pytest.mark.parametrize("place", [".", "miniImageNet"])
def test_images_are_sorted_by_class_and_file(tmp_path, place):
    write(tmp_path / "data" / place, ("train", "val", "test"))
    for split, name, first in (
        ("train", "train", 0),
        ("validation", "val", 64),
        ("test", "test", 80),
    ):
        found = read(tmp_path / "data", split)
        assert found.shape == (CLASSES[name], 2, 3, 84, 84) and found.dtype == np.uint8
        for c in range(CLASSES[name]):
            for k in range(2):
                expected = np.array([first + c, 100 + k, 7], np.uint8)[:, None, None]
                assert (found[c, k] == expected).all()


def test_other_sizes_and_colours_become_84_by_84_in_rgb(tmp_path):
    folder = write(tmp_path / "data")
    first, second = sorted(file for file, _ in rows_of("test"))[:2]
    wide = Image.new("RGB", (168, 100), (255, 0, 0))
    wide.paste((0, 0, 255), (84, 0, 168, 100))  # Red on the left, blue on the right.
    wide.save(folder / "images" / first, "PNG")
    (folder / "images" / second).write_bytes(picture((50, 50, 50), mode="L"))
    found = read(folder)[0]
    assert found[0, 0, :, :38].min() == 255 and found[0, 2, :, 46:].min() == 255
    assert found[0, 2, :, :38].max() == 0
    assert (found[1] == 50).all()


def test_the_second_reading_is_from_the_cache_and_a_changed_image_is_read_again(
    tmp_path, monkeypatch
):
    folder = write(tmp_path / "data")
    first = read(folder)
    assert [file.suffix for file in cache_folder().iterdir()] == [".npz"]

    def fail(*_):
        raise AssertionError("decoded again")

    with monkeypatch.context() as patch:
        patch.setattr(mini_imagenet, "_decode", fail)
        assert np.array_equal(read(folder), first)
    (folder / "images" / rows_of("test")[0][0]).write_bytes(picture((1, 2, 3), (90, 90)))
    assert not np.array_equal(read(folder), first)


@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("test.csv", "there is no test.csv in"),
        ("images", "there is no images in"),
        ("images/n0000008100000001.jpg", "there is no n0000008100000001.jpg in"),
    ],
)
def test_missing_files_are_named_with_where_they_are_published(tmp_path, absent, message):
    folder = write(tmp_path / "data")
    (folder / absent).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError) as error:
        read(folder)
    text = str(error.value)
    assert text.startswith("miniImageNet: ") and message in text and len(text.splitlines()) == 1
    assert "meta-learning-lstm" in text and "image-net.org" in text


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (rows_of("test")[2:], ("filename", "label"), "it has 19 classes, not 20"),
        (rows_of("test")[1:], ("filename", "label"), "n00000099 has 1 images and n00000098 has 2"),
        (rows_of("test"), ("file", "class"), "its first line does not name the columns"),
        (rows_of("test"), ("filename", " label"), "its first line does not name the columns"),
        (rows_of("test")[1:], rows_of("test")[0], "its first line does not name the columns"),
        ([("../a.jpg", "n1"), *rows_of("test")[1:]], ("filename", "label"), "is no plain file"),
        (
            [rows_of("test")[1], *rows_of("test")[1:]],
            ("filename", "label"),
            "a file name is there twice",
        ),
        ([("a.jpg",), *rows_of("test")], ("filename", "label"), "line 2 has no filename"),
        ([], ("filename", "label"), "it has 0 classes, not 20"),
        ([], (), "its first line does not name the columns"),
    ],
)
def test_damaged_tables_are_refused_in_one_line(tmp_path, rows, header, message):
    folder = write(tmp_path / "data")
    write_table(folder, "test", rows, header)
    with pytest.raises(ValueError) as error:
        read(folder)
    assert message in str(error.value) and "test.csv is damaged" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (1, "class n00000000 is in train.csv, too"),
        (0, "n0000000000000000.jpg is in train.csv, too"),
    ],
)
def test_a_class_or_an_image_of_two_splits_is_refused(tmp_path, column, message):
    folder = write(tmp_path / "data", ("train", "test"))
    of_training = rows_of("train")[-1][column]
    rows = rows_of("test")
    changed = rows[0][1] if column else None
    for k, row in enumerate(rows):
        if row[1] == changed or (column == 0 and k == 0):
            rows[k] = (row[0], of_training) if column else (of_training, row[1])
    write_table(folder, "test", rows)
    with pytest.raises(ValueError) as error:
        read(folder)
    assert message in str(error.value) and "test.csv" in str(error.value)


def test_tables_of_spreadsheets_are_read(tmp_path):
    folder = write(tmp_path / "data")
    expected = read(folder)
    text = (folder / "test.csv").read_bytes()
    assert b"\r\n" in text
    for ends in (b"\r\n", b"\n"):
        (folder / "test.csv").write_bytes(b"\xef\xbb\xbf" + text.replace(b"\r\n", ends))
        assert np.array_equal(read(folder), expected)


def test_images_of_16_bits_are_refused(tmp_path):
    folder = write(tmp_path / "data")
    deep = Image.fromarray(np.full((84, 84), 300, np.uint16))
    deep.save(folder / "images" / "n0000008100000001.jpg", "PNG")
    with pytest.raises(ValueError, match="more than 8 bits"):
        read(folder)


@pytest.mark.parametrize("content", [b"", b"not an image", picture((1, 2, 3))[:60]])
def test_broken_images_are_named(tmp_path, content):
    folder = write(tmp_path / "data")
    (folder / "images" / "n0000008100000001.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=r"n0000008100000001\.jpg is damaged") as error:
        read(folder)
    assert len(str(error.value).splitlines()) == 1
    assert not cache_folder().exists()


def test_tables_that_are_no_text_and_unknown_splits_are_refused(tmp_path):
    folder = write(tmp_path / "data")
    (folder / "test.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"test\.csv is damaged"):
        read(folder)
    with pytest.raises(ValueError, match="did you mean 'validation'"):
        read(folder, "valid")
