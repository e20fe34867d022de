#!/usr/bin/env python3
"""Writes `canny.json`: edges by OpenCV of images that are functions of the position.

    python canny.py
"""

import json
import pathlib

import cv2
import numpy as np

CASES = [(24, 17, 100, 200), (31, 20, 300, 700), (9, 40, 50.5, 121.9), (3, 3, 10, 20), (1, 6, 5, 9), (26, 26, 900, 600)]


def image(width, height):
    y, x, c = np.mgrid[:height, :width, :3]
    return ((x * x * (c + 1) + 3 * y * y + x * y * c + 40 * (x // 5 + y // 7)) % 256).astype(np.uint8)


cases = []
for width, height, low, high in CASES:
    edges = cv2.Canny(image(width, height), low, high)
    rows = ["".join("#" if v else "." for v in row) for row in edges]
    cases.append(dict(width=width, height=height, low=low, high=high, edges=rows))
    print(width, height, int((edges > 0).sum()))
text = json.dumps(dict(versions=f"opencv-python-headless {cv2.__version__}", cases=cases), indent=1)
(pathlib.Path(__file__).parent / "canny.json").write_text(text + "\n")
