"""Writes the small data sets that tests/packed.rs reads, with the tools that write real ones.

Python 3, numpy 2, Pillow. Byte c of the pixel in row y, column x of image n is (50·n + 7·y + 3·x + 80·c) mod 256.
"""

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent


def images(n, height, width, channels):
    i, y, x, c = np.ogrid[:n, :height, :width, :channels]
    return ((50 * i + 7 * y + 3 * x + 80 * c) % 256).astype(np.uint8)


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


grey, colour = images(6, 5, 4, 1)[..., 0], images(6, 5, 4, 3)
labels = np.array([2, 0, 1, 1, 0, 2])

idx = struct.pack(">HBBIII", 0, 8, 3, 6, 5, 4) + grey.tobytes()
(HERE / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx, mtime=0))
(HERE / "train-labels-idx1-ubyte.gz").write_bytes(
    gzip.compress(struct.pack(">HBBI", 0, 8, 1, 6) + labels.astype(np.uint8).tobytes(), mtime=0)
)

np.save(HERE / "colour.npy", colour)
np.savez_compressed(
    HERE / "set.npz", train_images=grey, train_labels=labels[:, None], test_images=grey[:2], test_labels=labels[:2, None]
)

paths = [f"photos/{'cat' if i % 2 else 'dog'}/{i}.png" for i in range(6)]
with zipfile.ZipFile(HERE / "photos.zip", "w", zipfile.ZIP_DEFLATED) as out:
    out.writestr(zipfile.ZipInfo("photos/"), b"")
    for path, pixels in zip(paths, colour):
        out.writestr(zipfile.ZipInfo(path), png(pixels), zipfile.ZIP_DEFLATED)
    out.writestr(zipfile.ZipInfo("photos/readme.txt"), b"no image", zipfile.ZIP_STORED)


def tar(path, members):
    with tarfile.open(path, "w:gz") as out:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))


tar(HERE / "photos.tar.gz", [(path, png(pixels)) for path, pixels in zip(paths, colour)])
planes = images(4, 32, 32, 3).transpose(0, 3, 1, 2)
batch = lambda rows: b"".join(bytes([3 - n]) + planes[n].tobytes() for n in rows)
tar(
    HERE / "cifar.tar.gz",
    [
        ("cifar-10-batches-bin/batches.meta.txt", b"plane\ncar\nbird\ncat\n\n"),
        ("cifar-10-batches-bin/data_batch_1.bin", batch([0, 1])),
        ("cifar-10-batches-bin/data_batch_2.bin", batch([2, 3])),
        ("cifar-10-batches-bin/test_batch.bin", batch([0])),
    ],
)
