"""Pickled batches of CIFAR: arrays are read, crafted ones are refused before they are built."""

import numpy as np
import pytest
from python_2_pickles import python_2_pickle

from meta_train.tasks.data.cifar_pickles import read_pickled_batch

BATCH = python_2_pickle(np.zeros((2, 3072), np.uint8), [3, 7])

CALLED = b"\x80\x02cnumpy\nndarray\nJ\xff\xff\x00\x00\x85\x85R."

CRAFTED = {
    "objects": BATCH.replace(b"U\x02u1", b"U\x02O8"),
    "other numbers": BATCH.replace(b"U\x02u1", b"U\x02f8"),
    "ndarray is called": CALLED,
    "ndarray of objects": CALLED.replace(b"\x85\x85R", b"\x85U\x01O\x86R"),
    "more rows than bytes": BATCH.replace(b"J" + bytes([2, 0, 0, 0]), b"J" + b"\xff\xff\xff\x7f"),
    "rows below zero": BATCH.replace(b"J" + bytes([2, 0, 0, 0]), b"J" + b"\xff\xff\xff\xff"),
    "a label too large": BATCH.replace(b"J" + bytes([7, 0, 0, 0]), b"J" + bytes([10, 0, 0, 0])),
    "a label that is a list": BATCH.replace(b"J" + bytes([7, 0, 0, 0]), b"]"),
    "fewer labels": BATCH.replace(b"J" + bytes([7, 0, 0, 0]), b""),
    "a list as data": b"\x80\x02}(U\x04data]U\x06labels]u.",
    "a dtype as data": b"\x80\x02}(U\x04datacnumpy\ndtype\nU\x06labels]u.",
}


@pytest.mark.parametrize("case", CRAFTED)
def test_a_crafted_array_is_refused_and_not_built(case):
    assert [part.tolist() for part in read_pickled_batch(BATCH)] == [
        np.zeros((2, 3, 32, 32)).tolist(),
        [3, 7],
    ]
    assert CRAFTED[case] != BATCH
    with pytest.raises(ValueError, match="^not a batch of images"):
        read_pickled_batch(CRAFTED[case])


def test_an_array_in_fortran_order_is_read():
    pixels = np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072)
    listed = python_2_pickle(np.asfortranarray(pixels).T, [3, 7]).replace(
        b"J" + (3072).to_bytes(4, "little") + b"J" + (3072).to_bytes(4, "little"),
        b"J" + (2).to_bytes(4, "little") + b"J" + (3072).to_bytes(4, "little"),
    )
    images, _ = read_pickled_batch(listed.replace(b"tb\x89T", b"tb\x88T"))
    assert images.reshape(2, 3072).tolist() == pixels.tolist()
