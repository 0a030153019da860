"""Data in VOC's form: colored rectangles on gray, one color a class."""

import pathlib

import numpy as np
from PIL import Image

COLORS = {"blue": (30, 40, 230), "green": (20, 220, 40), "red": (230, 30, 30)}
SIZE = 64


def rectangles(seed: int, number: int, size: int = SIZE):
    """Images with one to three rectangles that do not overlap.

    Returns:
        A list of (uint8 `[size, size, 3]`, list of (class name, left, top,
        right, bottom edge)).
    """
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(number):
        image = np.full([size, size, 3], 128, np.uint8)
        objects = []
        # Each rectangle is in a different quarter.
        for quarter in rng.permutation(4)[: rng.integers(1, 4)]:
            side = rng.integers(size // 4, size // 2, 2)
            corner = rng.integers(0, size // 2 - side + 1)
            left, top = corner + np.array(divmod(quarter, 2)) * (size // 2)
            right, bottom = np.array([left, top]) + side
            name = str(rng.choice(sorted(COLORS)))
            image[top:bottom, left:right] = COLORS[name]
            box = (int(left), int(top), int(right), int(bottom))
            objects.append((name, *box))
        made.append((image, objects))
    return made


def annotation(objects, size=(SIZE, SIZE), difficult=()) -> str:
    """An annotation; VOC counts from 1, and boxes hold their last pixel."""
    entries = "".join(
        f"<object><name>{name}</name>"
        f"<difficult>{int(i in difficult)}</difficult>"
        f"<bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"
        f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for i, (name, left, top, right, bottom) in enumerate(objects)
    )
    height, width = size
    return (
        f"<annotation><size><width>{width}</width><height>{height}</height>"
        f"<depth>3</depth></size>{entries}</annotation>"
    )


def write_folder(folder: pathlib.Path, made, splits) -> None:
    """Writes images 0, 1 .. and splits, lists of positions by their names."""
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / part).mkdir(parents=True)
    for i, (image, objects) in enumerate(made):
        Image.fromarray(image).save(folder / f"JPEGImages/{i}.png")
        (folder / f"Annotations/{i}.xml").write_text(
            annotation(objects, image.shape[:2])
        )
    for name, positions in splits.items():
        (folder / f"ImageSets/Main/{name}.txt").write_text(
            "".join(f"{i}\n" for i in positions)
        )
