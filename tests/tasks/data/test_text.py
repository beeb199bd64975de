"""Text as windows of symbols: Python's documentation, or a file."""

import pytest
import torch

from meta_train.tasks import create_task
from meta_train.tasks.data.text import SYMBOLS, VOCABULARY, read_windows


def decode(symbols):
    return "".join((SYMBOLS + "?")[code] for code in symbols.tolist())


def write(tmp_path, content):
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    return str(path)


def test_windows_cover_disjoint_contiguous_parts_in_order(tmp_path):
    text = "".join(f"{k:04d};" for k in range(400))
    path = write(tmp_path, text.encode())
    parts = {}
    for split, first, last in (("train", 0, 0.8), ("validation", 0.8, 0.9), ("test", 0.9, 1)):
        windows = read_windows(path, split, 7)
        assert windows.shape[1] == 8
        assert (windows[1:, 0] == windows[:-1, -1]).all()
        parts[split] = decode(torch.cat([windows[:1, 0], windows[:, 1:].flatten()]))
        assert text[round(first * 2000) : round(last * 2000)].startswith(parts[split])
    assert len("".join(parts.values())) > 1970


def test_the_default_text_is_long():
    windows = read_windows(None, "train", 20)
    assert windows.numel() > 200_000
    assert "statement" in decode(windows.flatten())
    assert windows.max() < VOCABULARY == 97


def test_characters_beyond_ascii_are_one_symbol(tmp_path):
    path = write(tmp_path, "naïve Æsop\n".encode() * 20)
    assert decode(read_windows(path, "train", 10)[0]) == "na?ve ?sop\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"ab" * 50, "too short: its train part, 80% of 100 characters"),
        (b"abc\xff" * 1000, "not a text in UTF-8: byte 3"),
    ],
)
def test_an_unusable_file_is_named(tmp_path, content, message):
    path = write(tmp_path, content)
    for name in ("char-rnn", "char-transformer"):
        with pytest.raises(ValueError, match=message) as caught:
            create_task(name, path=path, length=(50, 60))
        assert path in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no text file .*nowhere"):
        create_task("char-rnn", path=str(tmp_path / "nowhere.txt"))


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "own.txt").write_bytes(b"ab" * 200)
    assert decode(read_windows("~/own.txt", "train", 10)[0]) == "ababababab" + "a"
