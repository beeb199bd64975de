"""Pickled batches of images as Python 2 wrote them."""


def python_2_pickle(pixels, labels):
    """{"data": pixels, "labels": list} as Python 2 and numpy 1 wrote it: strings of bytes."""

    def short(text):
        return b"U" + bytes([len(text)]) + text

    def number(value):
        return b"J" + value.to_bytes(4, "little", signed=True)

    values = pixels.tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85"
        + short(b"b") + b"\x87R(" + number(1) + number(len(pixels)) + number(3072) + b"\x86"
        + b"cnumpy\ndtype\n" + short(b"u1") + number(0) + number(1) + b"\x87R("
        + number(3) + short(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
        + b"\x89T" + len(values).to_bytes(4, "little") + values + b"tb"
    )  # fmt: skip
    listed = b"](" + b"".join(number(int(label)) for label in labels) + b"e"
    return b"\x80\x02}(" + short(b"data") + array + short(b"labels") + listed + b"u."
