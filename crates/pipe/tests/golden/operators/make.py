"""Golden values of crates/pipe/tests/operators.rs, made with Pillow 13.0.0 and numpy 2.4.6.

    python make.py > pillow.json
"""

import io
import json
import sys

import numpy as np
import PIL
from PIL import Image

assert PIL.__version__ == "13.0.0" and np.__version__ == "2.4.6", (PIL.__version__, np.__version__)


def plane(height, width):
    """A value for every pixel that any language computes alike."""
    y, x = np.mgrid[:height, :width]
    return ((x * 37 + y * 101 + x * y * 7) % 256).astype(np.float32)


def resized(height, width, factor):
    size = (-(-width // factor), -(-height // factor))
    image = Image.fromarray(plane(height, width))
    return np.asarray(image.resize(size, Image.BICUBIC))


def enlarged(height, width, to):
    return np.asarray(Image.fromarray(plane(height, width)).resize(to[::-1], Image.BICUBIC))


def reduced(height, width, factor):
    return np.asarray(Image.fromarray(plane(height, width)).reduce(factor))


def smooth(height, width):
    y, x = np.mgrid[:height, :width]
    red = 128 + 90 * np.sin(x / 9.0) + 20 * np.cos(y / 5.0)
    green = 120 + 80 * np.cos((x + y) / 13.0)
    blue = 100 + 60 * np.sin(y / 11.0)
    return np.clip(np.rint(np.stack([red, green, blue], -1)), 0, 255).astype(np.uint8)


def jpeg(image, mode, quality):
    file = io.BytesIO()
    Image.fromarray(image).convert(mode).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).tolist()


def grey(height, width):
    return np.asarray(Image.fromarray(smooth(height, width)).convert("L")).tolist()


cases = [(24, 32, 4), (17, 23, 4), (9, 30, 2), (7, 5, 3), (16, 16, 8)]
out = {
    "bicubic": [{"from": c, "values": resized(*c).tolist()} for c in cases],
    "box": [{"from": c, "values": reduced(*c).tolist()} for c in cases],
    "enlarged": [
        {"from": (h, w), "to": to, "values": enlarged(h, w, to).tolist()}
        for h, w, to in [(5, 7, (20, 28)), (4, 6, (9, 6)), (1, 3, (3, 11))]
    ],
    "smooth": smooth(19, 37).tolist(),
    "grey": grey(19, 37),
    "jpeg_grey": [{"quality": q, "values": jpeg(smooth(19, 37), "L", q)} for q in (10, 50, 90)],
    "jpeg": [{"quality": q, "values": jpeg(smooth(19, 37), "RGB", q)} for q in (10, 50, 90)],
}
json.dump(out, sys.stdout, separators=(",", ":"))
