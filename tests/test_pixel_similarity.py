"""Small pictures: what is the same, and what is not."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from tests.finished_run import picture
from tf_instdisc.retrieval import pixel_similarity

SIZE = 160


def thumbnail(image):
    small = image.convert("RGB").resize([32, 32], Image.BILINEAR)
    return pixel_similarity.thumbnails(np.asarray(small, np.float32)[None])[0]


def similarity(image, other):
    both = np.stack([thumbnail(image), thumbnail(other)])
    one = pixel_similarity.similarities(both, np.array([0]), np.array([1]))
    same = pixel_similarity.similarities(both, np.array([1]), np.array([0]))
    assert one == same
    return float(one[0])


def cut(image, left, top, right, bottom):
    box = [SIZE * part for part in (left, top, 1 - right, 1 - bottom)]
    return image.crop([round(edge) for edge in box])


COPIES = {
    "the same": lambda image: image,
    "mirrored": ImageOps.mirror,
    "gray": ImageOps.grayscale,
    "enlarged": lambda image: image.resize([240, 240], Image.BICUBIC),
    "squeezed": lambda image: image.resize([160, 100], Image.BICUBIC),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "dull": lambda image: ImageEnhance.Contrast(image).enhance(0.5),
    "cut all round": lambda image: cut(image, 0.05, 0.05, 0.05, 0.05),
    "cut at a corner": lambda image: cut(image, 0.1, 0.1, 0, 0),
    "cut much": lambda image: cut(image, 0.2, 0.1, 0, 0.1),
    "cut and mirrored": lambda image: ImageOps.mirror(
        cut(image, 0, 0.05, 0.1, 0.05)
    ),
}


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_similar(kind):
    for seed in range(5):
        image = Image.fromarray(picture(seed, SIZE))
        assert similarity(image, COPIES[kind](image)) > 0.94


def test_different_pictures_are_not_similar():
    pictures = np.stack(
        [thumbnail(Image.fromarray(picture(seed, SIZE))) for seed in range(40)]
    )
    first, second = np.triu_indices(40, 1)
    found = pixel_similarity.similarities(pictures, first, second)
    assert np.mean(found > 0.94) < 0.01


@pytest.mark.parametrize(("other", "alike"), [(200, True), (120, False)])
def test_flat_pictures_are_compared_by_their_gray_level(other, alike):
    both = np.full([2, 32, 32], 200, np.uint8)
    both[0, 3, 4] = 203
    both[1] = other
    found = pixel_similarity.similarities(both, np.array([0]), np.array([1]))
    assert (found[0] == 1) == alike
    assert alike or found[0] < 0.5


def test_the_best_of_all_parts_counts():
    """Against loops over parts, on whole pixels."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, [6, 8, 8], np.uint8)
    # 0.8 of 8 cells of 5 pixels are 32 pixels: one part has whole cells.
    large = np.kron(coarse, np.ones([5, 5], np.uint8))
    whole = np.stack(
        [
            np.asarray(Image.fromarray(one).resize([32, 32], Image.BOX))
            for one in large
        ]
    )
    parts = large[:, 8:40, :32]  # Below, at the left.
    both = np.concatenate([whole, parts])
    found = pixel_similarity.similarities(both, np.arange(6), np.arange(6, 12))
    assert (found > 0.97).all()
    plain = [
        np.corrcoef(one.ravel(), other.ravel())[0, 1]
        for one, other in zip(whole, parts, strict=True)
    ]
    assert np.max(plain) < 0.8
