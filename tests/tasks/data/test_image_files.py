"""Official image files: small copies of their formats, whole and broken."""

import gzip
import hashlib
import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
from python_2_pickles import python_2_pickle

from meta_train.runtime.seeding import generator
from meta_train.tasks import create_task, data
from meta_train.tasks.data import image_files, load_data
from meta_train.tasks.data.image_files import CHECKSUMS, IMAGE_FILES, read_images
from meta_train.tasks.families import autoencoder

IDX = {"train-images-idx3-ubyte": 12, "train-labels-idx1-ubyte": 12,
       "t10k-images-idx3-ubyte": 4, "t10k-labels-idx1-ubyte": 4}  # fmt: skip


@pytest.fixture(autouse=True)
def fresh():
    """Clear caches, so that no test sees the files of another."""
    caches = read_images, data._load, autoencoder._images_as_targets
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def idx(name, count, seed=0):
    random = np.random.default_rng([seed, count])
    if "images" in name:
        values = random.integers(0, 256, (count, 28, 28), np.uint8)
    else:
        values = (np.arange(count) % 10).astype(np.uint8)
    header = bytes((0, 0, 8, values.ndim)) + np.array(values.shape, ">u4").tobytes()
    return header + values.tobytes(), values


def write_mnist(folder, monkeypatch, data_set="mnist", zipped=True, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for name, count in IDX.items():
        content, arrays[name] = idx(name, count, seed)
        path = folder / (f"{name}.gz" if zipped else name)
        path.write_bytes(gzip.compress(content) if zipped else content)
        accept(monkeypatch, data_set, path)
    return arrays


def accept(monkeypatch, data_set, path):
    """Let a file's checksum be the official one."""
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setitem(CHECKSUMS, f"{data_set}/{path.name}", md5)


def cifar_batches(form):
    random = np.random.default_rng(0)
    batches = {}
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        labels = random.integers(0, 10, 6, np.uint8)
        pixels = random.integers(0, 256, (6, 3072), np.uint8)
        if form == "bin":
            content = np.concatenate([labels[:, None], pixels], 1).tobytes()
        else:
            content = python_2_pickle(pixels, labels)
        batches[f"{name}.bin" if form == "bin" else name] = content, labels, pixels
    return batches


def write_cifar(folder, monkeypatch, form="bin", archived=True, without=None):
    batches = cifar_batches(form)
    inside = f"cifar-10-batches-{form}"
    if archived:
        path = folder / f"cifar-10-{'binary' if form == 'bin' else 'python'}.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name, (content, _, _) in batches.items():
                if name != without:
                    member = tarfile.TarInfo(f"{inside}/{name}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        accept(monkeypatch, "cifar-10", path)
        return batches, path
    (folder / inside).mkdir()
    for name, (content, _, _) in batches.items():
        if name != without:
            (folder / inside / name).write_bytes(content)
            if form == "py":
                accept(monkeypatch, "cifar-10", folder / inside / name)
    return batches, folder / inside


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", [".", "mnist", "MNIST/raw"])
def test_mnist_is_found_in_the_usual_folders(tmp_path, monkeypatch, place, zipped):
    arrays = write_mnist(tmp_path / place, monkeypatch, zipped=zipped)
    splits = read_images("mnist", str(tmp_path))
    train = torch.from_numpy(arrays["train-images-idx3-ubyte"])[:, None]
    assert torch.equal(torch.cat([splits["train"][0], splits["validation"][0]]), train)
    assert torch.equal(splits["test"][0][:, 0], torch.from_numpy(arrays["t10k-images-idx3-ubyte"]))
    assert splits["train"][1].tolist() == list(range(10))
    assert splits["validation"][1].tolist() == [0, 1]


def test_mnist_and_fashion_mnist_are_told_apart_by_checksum(tmp_path, monkeypatch):
    first = write_mnist(tmp_path / "mnist", monkeypatch)
    second = write_mnist(tmp_path / "fashion-mnist", monkeypatch, data_set="fashion-mnist", seed=1)
    for name, arrays in (("mnist", first), ("fashion-mnist", second)):
        images = read_images(name, str(tmp_path))["test"][0][:, 0]
        assert torch.equal(images, torch.from_numpy(arrays["t10k-images-idx3-ubyte"]))
    (tmp_path / "mnist").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="not the official file"):
        read_images.cache_clear()
        read_images("mnist", str(tmp_path / "fashion-mnist"))


@pytest.mark.parametrize("form", ["bin", "py"])
@pytest.mark.parametrize("archived", [True, False])
def test_cifar_is_read_in_either_version(tmp_path, monkeypatch, form, archived):
    batches, _ = write_cifar(tmp_path, monkeypatch, form, archived)
    splits = read_images("cifar-10", str(tmp_path))
    images = torch.cat([splits["train"][0], splits["validation"][0]])
    labels = torch.cat([splits["train"][1], splits["validation"][1]])
    expected = list(batches.values())
    assert images.shape == (30, 3, 32, 32)
    assert images.flatten(1).tolist() == [row for b in expected[:5] for row in b[2].tolist()]
    assert labels.tolist() == [label for b in expected[:5] for label in b[1].tolist()]
    assert splits["test"][1].tolist() == expected[5][1].tolist()


def test_the_folder_may_come_from_the_environment(tmp_path, monkeypatch):
    write_mnist(tmp_path, monkeypatch)
    monkeypatch.setenv("LEARNED_OPT_DATA", str(tmp_path))
    data = load_data("mnist", "train")
    assert data.shape == (1, 28, 28) and data.outputs == 10
    assert abs(float(data.dataset.inputs.mean())) < 1e-4


@pytest.mark.parametrize("name", ["random-mlp", "conv", "autoencoder", "logistic-regression"])
def test_families_train_on_files(tmp_path, monkeypatch, name):
    write_mnist(tmp_path, monkeypatch)
    write_cifar(tmp_path, monkeypatch)
    family = create_task(name, data=["mnist", "cifar-10"], folder=str(tmp_path))
    for seed in range(3):
        problem = family.sample_task(generator(seed)).task.sample(
            generator(seed), torch.device("cpu")
        )
        loss, _ = problem.loss(problem.parameters, problem.buffers, problem.draw(generator(0)))
        assert loss.isfinite()
    assert "mnist" in next(iter(family.held_out()))


def test_a_missing_folder_or_file_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("LEARNED_OPT_DATA", raising=False)
    for name, page in image_files.PAGES.items():
        with pytest.raises(ValueError, match=f"{name} is read from files.*LEARNED_OPT_DATA"):
            read_images(name)
        with pytest.raises(FileNotFoundError, match=page):
            read_images(name, str(tmp_path))
    with pytest.raises(ValueError, match="there is no folder .*nowhere"):
        read_images("mnist", str(tmp_path / "nowhere"))


def test_a_single_missing_file_is_named(tmp_path, monkeypatch):
    write_mnist(tmp_path, monkeypatch)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="no t10k-labels-idx1-ubyte.gz or t10k-labels"):
        read_images("mnist", str(tmp_path))


def cut(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize("official", [True, False])
def test_a_truncated_or_changed_archive_is_named(tmp_path, monkeypatch, official):
    write_mnist(tmp_path, monkeypatch)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    right = CHECKSUMS[f"mnist/{path.name}"]
    path.write_bytes(cut(path.read_bytes()))
    actual = hashlib.md5(path.read_bytes()).hexdigest()
    message = f"{path.name} is damaged, cut short .* md5 {actual}, not {right}"
    if official:  # as if half a file had been published
        accept(monkeypatch, "mnist", path)
        message = f"{path.name} is damaged: .*yann.lecun.com"
    with pytest.raises(ValueError, match=message):
        read_images("mnist", str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut, "values, but the header says 12 x 28 x 28"),
        (lambda content: b"PNG" + content, "it starts with 504e47"),
        (lambda content: content[:6], "damaged"),
        (lambda content: b"", "it starts with "),
        (lambda content: idx("images", 11)[0], "11 images .* for 12 labels"),
    ],
)
def test_unpacked_files_are_checked_by_their_structure(tmp_path, monkeypatch, change, message):
    write_mnist(tmp_path, monkeypatch, zipped=False)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        read_images("mnist", str(tmp_path))


def test_damaged_cifar_files_are_named(tmp_path, monkeypatch):
    _, path = write_cifar(tmp_path, monkeypatch, archived=False)
    for content, message in (
        ((path / "data_batch_3.bin").read_bytes()[:-1], "not a number of images of 3073"),
        (b"\x0b" + bytes(3072), "a label is 11, not 0 to 9"),
    ):
        (path / "data_batch_3.bin").write_bytes(content)
        with pytest.raises(ValueError, match=f"data_batch_3.bin is damaged: .*{message}"):
            read_images("cifar-10", str(tmp_path))
    (path / "data_batch_3.bin").unlink()
    with pytest.raises(FileNotFoundError, match="no data_batch_3.bin"):
        read_images("cifar-10", str(tmp_path))


def test_damaged_cifar_archives_are_named(tmp_path, monkeypatch):
    _, path = write_cifar(tmp_path, monkeypatch, without="data_batch_2.bin")
    with pytest.raises(ValueError, match="binary.tar.gz is damaged: data_batch_2.bin is not in it"):
        read_images("cifar-10", str(tmp_path))
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(ValueError, match="damaged, cut short"):
        read_images("cifar-10", str(tmp_path))
    accept(monkeypatch, "cifar-10", path)
    with pytest.raises(ValueError, match="binary.tar.gz is damaged: "):
        read_images("cifar-10", str(tmp_path))


class Harmful:
    def __reduce__(self):
        return print, ("this must not run",)


@pytest.mark.parametrize("content", [b"", b"\x80\x02", pickle.dumps({b"data": Harmful()})])
def test_a_pickle_that_calls_other_functions_is_refused(tmp_path, monkeypatch, content, capsys):
    _, path = write_cifar(tmp_path, monkeypatch, "py", archived=False)
    (path / "data_batch_1").write_bytes(content)
    with pytest.raises(ValueError, match="data_batch_1 is damaged, .* not the official file"):
        read_images("cifar-10", str(tmp_path))
    accept(monkeypatch, "cifar-10", path / "data_batch_1")
    with pytest.raises(ValueError, match="data_batch_1 is damaged: not a batch of images"):
        read_images("cifar-10", str(tmp_path))
    assert capsys.readouterr().out == ""


def test_sizes_that_overflow_are_refused(tmp_path, monkeypatch):
    write_mnist(tmp_path, monkeypatch, zipped=False)
    sizes = np.array([2**31, 2**31, 4], ">u4").tobytes()  # their product is 0 in 64 bits
    (tmp_path / "train-images-idx3-ubyte").write_bytes(bytes((0, 0, 8, 3)) + sizes)
    with pytest.raises(ValueError, match="0 values, but the header says 2147483648 x 2147483648"):
        read_images("mnist", str(tmp_path))


def test_downloading_needs_torchvision(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchvision.datasets", None)
    with pytest.raises(ValueError, match="download=True needs torchvision"):
        read_images("mnist", str(tmp_path), download=True)


@pytest.mark.parametrize("name", IMAGE_FILES)
def test_torchvision_downloads_what_is_missing(tmp_path, monkeypatch, name):
    class Datasets:
        def __getattr__(self, data_set):
            def fetch(root, download, train):
                assert download and data_set in {"MNIST", "FashionMNIST", "CIFAR10"}
                if not train:
                    return
                if data_set == "CIFAR10":
                    write_cifar(tmp_path, monkeypatch, "py")
                else:
                    write_mnist(tmp_path / data_set / "raw", monkeypatch, data_set=name)

            return fetch

    monkeypatch.setitem(__import__("sys").modules, "torchvision.datasets", Datasets())
    assert len(read_images(name, str(tmp_path), download=True)["test"][0]) in (4, 6)
