"""Writes animals.parquet as Hugging Face's `datasets` does: features in the footer, images as structs.

    pip install datasets==5.2.0 pyarrow==26.0.1 pillow
    python make_parquet.py

Pixel (x, y) of image i is (30 i, 20 x, 20 y); the test computes the same.
"""

import io
from pathlib import Path

import datasets
import numpy
import PIL.Image


def png(i):
    y, x = numpy.mgrid[0:6, 0:6]
    pixels = numpy.stack([0 * x + 30 * i, 20 * x, 20 * y], -1).astype(numpy.uint8)
    out = io.BytesIO()
    PIL.Image.fromarray(pixels).save(out, "png")
    return {"bytes": out.getvalue(), "path": f"{i}.png"}


captions = [None if i == 3 else f"picture {i} – é" for i in range(7)]
labels = [0, 1, 2, 1, 0, -1, 2]
features = datasets.Features(
    image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog", "owl"]), text=datasets.Value("string")
)
table = {"image": [png(i) for i in range(7)], "label": labels, "text": captions}
dataset = datasets.Dataset.from_dict(table, features=features)
dataset.to_parquet(Path(__file__).with_name("animals.parquet"), batch_size=3)
