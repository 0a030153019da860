"""Augmentation against scalar definitions, Pillow, TensorFlow and keras_cv."""

import colorsys
import itertools
import math

import keras_cv
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from scipy import stats

from tf_instdisc.data import augment
from tf_instdisc.data.augment import Augmentation

LUMA = (0.299, 0.587, 0.114)


def draw(batch, seed=0, columns=augment.NUM_UNIFORMS):
    return np.random.default_rng(seed).random((batch, columns), np.float32)


def images_of(batch, height, width, seed=0):
    rng = np.random.default_rng(seed)
    images = 255 * rng.random((batch, height, width, 3))
    images[:, 0] = np.mean(images[:, 0], axis=-1, keepdims=True)  # gray
    images[:, :, 0] = np.round(images[:, :, 0] / 255) * 255  # saturated
    return images.astype(np.float32)


# === Crops ===


def torchvision_box(uniforms, height, width, augmentation):
    """RandomResizedCrop.get_params, with uniforms for its random numbers.

    Returns the box and the smallest distance of a real number from where it
    would be rounded to another integer.
    """
    low, ratio = augmentation.min_crop_area, augmentation.crop_aspect_ratio
    margins = []
    for k in range(10):
        target_area = height * width * (low + (1 - low) * uniforms[k])
        log_ratio = np.log(ratio)
        aspect_ratio = math.exp(
            log_ratio[0] + (log_ratio[1] - log_ratio[0]) * uniforms[10 + k]
        )
        sides = [
            math.sqrt(target_area * aspect_ratio),
            math.sqrt(target_area / aspect_ratio),
        ]
        margins += [abs(side % 1 - 0.5) for side in sides]
        w, h = (round(side) for side in sides)
        if 0 < w <= width and 0 < h <= height:
            places = [
                uniforms[20] * (height - h + 1),
                uniforms[21] * (width - w + 1),
            ]
            margins += [abs(x - round(x)) for x in places if round(x) > 0]
            return *map(math.floor, places), h, w, min(margins)
    in_ratio = width / height
    w, h = width, height
    if in_ratio < min(ratio):
        h = round(w / min(ratio))
    elif in_ratio > max(ratio):
        w = round(h * max(ratio))
    return (height - h) // 2, (width - w) // 2, h, w, min(margins)


@pytest.mark.parametrize("height", (1, 5, 32, 375, 1000))
@pytest.mark.parametrize("width", (1, 7, 32, 500, 1000))
@pytest.mark.parametrize("area", (0.2, 0.08, 0.9))
@pytest.mark.parametrize("ratio", ((3 / 4, 4 / 3), (0.5, 0.6), (1.5, 2.0)))
def test_boxes_equal_torchvision(height, width, area, ratio):
    augmentation = Augmentation(8, min_crop_area=area, crop_aspect_ratio=ratio)
    uniforms = draw(100)
    boxes = augment.crop_boxes(uniforms, height, width, augmentation).numpy()
    assert boxes.dtype == np.int32
    *expected, margins = np.transpose(
        [
            torchvision_box(u.astype(float), height, width, augmentation)
            for u in uniforms
        ]
    )
    # float32 cannot tell on which side of a rounding these few fall; sides of
    # 1000 are known to 1e-4.
    sure = margins > 1e-3
    assert sure.mean() > 0.8
    np.testing.assert_array_equal(boxes[sure], np.transpose(expected)[sure])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] >= 1).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= (height, width)).all()


def test_box_stays_inside_for_the_largest_uniform():
    # float32: (1 - 2**-24) * 1000 rounds up to 1000.
    uniforms = np.full([1, 22], 1 - 2**-24, np.float32)
    uniforms[:, :10] = 0
    uniforms[:, 10:20] = 0.5
    for side in range(990, 1000):
        top, left, height, width = augment.crop_boxes(
            uniforms, side, side, Augmentation(8, min_crop_area=0.01)
        ).numpy()[0]
        assert (top, left) == (side - height, side - width)


def test_each_image_of_a_batch_has_its_own_size():
    sizes = np.array([[32, 32], [1000, 10], [7, 5], [375, 500]])
    uniforms, augmentation = draw(4), Augmentation(8)
    boxes = augment.crop_boxes(uniforms, *sizes.T, augmentation)
    for i, (height, width) in enumerate(sizes):
        one = augment.crop_boxes(
            uniforms[i : i + 1], height, width, augmentation
        )
        np.testing.assert_array_equal(boxes[i : i + 1], one)


def test_smallest_image_has_a_crop():
    image, one = np.full([1, 1, 1, 3], 7.0, np.float32), draw(1)
    # A ratio of 3 to 4 wants a height of round(1 / 3) from a width of 1.
    augmentation = Augmentation(2, crop_aspect_ratio=(3.0, 4.0))
    boxes = augment.crop_boxes(one, 1, 1, augmentation)
    np.testing.assert_array_equal(boxes, [[0, 0, 1, 1]])
    resized = augment.crop_and_resize(image, boxes, 2)
    np.testing.assert_array_equal(resized, np.full([1, 2, 2, 3], 7.0))


def box_statistics(boxes, side):
    top, left, height, width = np.transpose(boxes) / side
    return {
        "area": height * width,
        "log_ratio": np.log(width / height),
        "top": top,
        "left": left,
    }


def test_area_ratio_and_place_are_uniform():
    # Up to half of the area, every box fits; 1000 pixels hide the rounding.
    uniforms = draw(4000)
    uniforms[:, :10] *= 3 / 8
    boxes = augment.crop_boxes(
        uniforms, 1000, 1000, Augmentation(8, min_crop_area=0.2)
    ).numpy()
    found = box_statistics(boxes, 1000)
    end = math.log(4 / 3)
    for name, sample, low, high in (
        ("area", found["area"], 0.2, 0.5),
        ("log_ratio", found["log_ratio"], -end, end),
        ("top", boxes[:, 0] / (1001 - boxes[:, 2]), 0, 1),
        ("left", boxes[:, 1] / (1001 - boxes[:, 3]), 0, 1),
    ):
        uniform = stats.uniform(low, high - low)
        assert stats.kstest(sample, uniform.cdf).pvalue > 0.01, name


def test_boxes_are_distributed_as_torchvisions():
    augmentation = Augmentation(8)
    boxes = augment.crop_boxes(draw(4000), 1000, 1000, augmentation).numpy()
    simulated = [
        torchvision_box(u, 1000, 1000, augmentation)[:4]
        for u in np.random.default_rng(1).random((4000, 22))
    ]
    found, expected = (box_statistics(x, 1000) for x in (boxes, simulated))
    for name in found:
        assert stats.ks_2samp(found[name], expected[name]).pvalue > 0.01, name


# === Resizing ===


@pytest.mark.parametrize("size", (1, 16, 64))
def test_resize_equals_pillow_and_tensorflow(size):
    height, width = 40, 52
    boxes = [(0, 0, 40, 52), (3, 5, 30, 7), (39, 51, 1, 1), (10, 0, 2, 52)]
    images = images_of(len(boxes), height, width)
    resized = augment.crop_and_resize(images, np.array(boxes, np.int32), size)
    for image, box, actual in zip(images, boxes, resized.numpy(), strict=True):
        top, left, h, w = box
        crop = image[top : top + h, left : left + w]
        # Cropped before, as torchvision does: Pillow's `box=` would let the
        # filter look at the pixels around it.
        pillow = [
            PIL.Image.fromarray(crop[..., c]).resize(
                (size, size), PIL.Image.Resampling.BILINEAR
            )
            for c in range(3)
        ]
        # Of 255: float32 sums, in another order than theirs.
        np.testing.assert_allclose(actual, np.stack(pillow, -1), atol=1e-3)
        ours = tf.image.resize(crop, (size, size), antialias=True)
        np.testing.assert_allclose(actual, ours, atol=1e-3)


# === Color ===


def jittered(image, uniforms, ranges):
    """ColorJitter of one image, in float64, without rounding to uint8."""
    image = image.astype(np.float64)
    factors = [
        max(0, 1 - r) + (1 + r - max(0, 1 - r)) * u
        for r, u in zip(ranges[:3], uniforms[:3], strict=True)
    ]
    turn = -ranges[3] + 2 * ranges[3] * uniforms[3]
    for change in np.argsort(uniforms[4:]):
        luma = image @ np.array(LUMA)
        if change == 0:
            image = factors[0] * image
        elif change == 1:
            image = factors[1] * image + (1 - factors[1]) * luma.mean()
        elif change == 2:
            image = factors[2] * image + (1 - factors[2]) * luma[..., None]
        else:
            for pixel in image.reshape(-1, 3):
                h, s, v = colorsys.rgb_to_hsv(*pixel / 255)
                pixel[:] = colorsys.hsv_to_rgb((h + turn) % 1, s, v)
                pixel *= 255
        image = np.clip(image, 0, 255)
    return image


@pytest.mark.parametrize(
    "ranges",
    (
        (0.4, 0.4, 0.4, 0.4),
        (1.5, 1.5, 1.5, 0.5),
        (0, 0, 0, 0),
        *(0.4 * np.eye(4)).tolist(),
    ),
)
def test_jitter_equals_scalar_definition(ranges):
    images, uniforms = images_of(50, 5, 6), draw(50, columns=8)
    actual = augment.color_jitter(images, uniforms, *ranges)
    expected = [
        jittered(image, u.astype(float), ranges)
        for image, u in zip(images, uniforms, strict=True)
    ]
    # Of 255.
    np.testing.assert_allclose(actual, expected, rtol=0, atol=0.01)


def test_every_order_of_the_changes_is_equally_likely():
    image, uniforms = images_of(1, 5, 6), draw(4800, columns=8)
    uniforms[:, :4] = (0.9, 0.9, 0.9, 0.7)
    orders = list(itertools.permutations((0.2, 0.4, 0.6, 0.8)))
    ranges = (0.4, 0.4, 0.4, 0.4)
    possible = np.array(
        [jittered(image[0], [*uniforms[0, :4], *o], ranges) for o in orders]
    ).reshape(24, -1)
    apart = np.abs(possible[:, None] - possible).max(-1) + 255 * np.eye(24)
    assert apart.min() > 0.1

    actual = augment.color_jitter(
        np.repeat(image, 4800, 0), uniforms, 0.4, 0.4, 0.4, 0.4
    ).numpy()
    distances = np.stack(
        [np.abs(actual.reshape(4800, -1) - p).max(-1) for p in possible]
    )
    assert distances.min(axis=0).max() < 0.01
    counts = np.bincount(distances.argmin(axis=0), minlength=24)
    assert stats.chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("probability", (0.0, 0.2, 1.0))
def test_grayscale_is_luma_with_its_probability(probability):
    images, uniforms = images_of(400, 2, 3), draw(400, columns=1)[:, 0]
    actual = augment.random_grayscale(images, uniforms, probability).numpy()
    is_changed = (actual != images).any(axis=(1, 2, 3))
    np.testing.assert_array_equal(is_changed, uniforms < probability)
    luma = np.repeat(images.astype(float) @ np.array(LUMA)[:, None], 3, -1)
    np.testing.assert_allclose(
        actual[is_changed], luma[is_changed], rtol=0, atol=1e-4
    )


def test_flip_mirrors_exactly():
    images, uniforms = images_of(100, 3, 5), draw(100, columns=1)[:, 0]
    actual = augment.random_flip(images, uniforms).numpy()
    for image, u, result in zip(images, uniforms, actual, strict=True):
        expected = image[:, ::-1] if u < 0.5 else image
        np.testing.assert_array_equal(result, expected)


# === The whole ===


def test_cropped_before_or_here_is_the_same():
    images, uniforms = images_of(8, 40, 52), draw(8)
    augmentation = Augmentation(16)
    whole = augment.augment(images, uniforms, augmentation)
    assert whole.shape == (8, 16, 16, 3)
    assert whole.dtype == tf.float32
    boxes = augment.crop_boxes(uniforms, 40, 52, augmentation)
    cropped = augment.crop_and_resize(tf.constant(images), boxes, 16)
    rest = augment.augment(cropped, uniforms, augmentation, crop=False)
    np.testing.assert_array_equal(whole, rest)


def test_bytes_and_floats_are_augmented_the_same():
    images, uniforms = np.round(images_of(8, 40, 52)), draw(8)
    results = [
        augment.augment(x, uniforms, Augmentation(16))
        for x in (images, images.astype(np.uint8))
    ]
    np.testing.assert_array_equal(*results)


def test_an_image_is_augmented_the_same_in_any_batch():
    images, uniforms = images_of(8, 40, 52), draw(8)
    together = augment.augment(images, uniforms, Augmentation(16)).numpy()
    in_graph = tf.function(augment.augment)(
        images[::-1], uniforms[::-1], Augmentation(16)
    )
    np.testing.assert_array_equal(in_graph[::-1], together)
    for i in range(8):
        alone = augment.augment(
            images[i : i + 1], uniforms[i : i + 1], Augmentation(16)
        )
        np.testing.assert_array_equal(alone[0], together[i])


@pytest.mark.parametrize("flip", (False, True))
def test_choices_are_independent_with_the_given_probability(flip):
    # A dark pixel to the left of a bright one, both of a strong color.
    pixels = np.array([[[[40, 10, 10], [220, 180, 180]]]], np.float32)
    images = augment.augment(
        np.repeat(pixels, 4000, 0),
        draw(4000),
        Augmentation(2, flip=flip),
        crop=False,
    ).numpy()
    value = images.max(axis=-1)[:, 0]
    was_flipped = value[:, 0] > value[:, 1]
    is_grey = np.ptp(images, axis=-1).max(axis=(1, 2)) < 1e-3
    assert stats.binomtest(is_grey.sum(), 4000, 0.2).pvalue > 0.01
    if not flip:
        assert not was_flipped.any()
        return
    assert stats.binomtest(was_flipped.sum(), 4000, 0.5).pvalue > 0.01
    # Neither depends on the other, nor on how bright the image became.
    for condition in (is_grey, value.max(axis=1) > 220):
        table = [
            [np.sum((was_flipped == a) & (condition == b)) for a in (0, 1)]
            for b in (0, 1)
        ]
        assert stats.chi2_contingency(table).pvalue > 0.01


JITTERS = ("brightness", "contrast", "saturation", "hue")


@pytest.mark.parametrize(
    ("name", "values"),
    (
        ("image_size", (0, -1)),
        ("min_crop_area", (0.0, 1.1, -1.0, math.nan)),
        ("crop_aspect_ratio", ((0.0, 1.0), (2.0, 1.0))),
        *((name, (-0.1, math.nan)) for name in JITTERS),
        ("hue", (0.6,)),
        ("grayscale_probability", (-0.1, 1.1, math.nan)),
    ),
)
def test_range_errors_show_what_was_received(name, values):
    for value in values:
        with pytest.raises(ValueError, match="Received: ") as error:
            Augmentation(**{"image_size": 8, name: value})
        assert str(error.value).endswith(f"Received: {name}={value}")


# === keras_cv ===


def test_keras_cv_flips_and_drops_color_the_same():
    images = images_of(8, 5, 6)
    flip = keras_cv.layers.RandomFlip("horizontal", rate=1.0)
    np.testing.assert_array_equal(
        augment.random_flip(images, np.zeros(8, np.float32)), flip(images)
    )
    # TensorFlow's weight of red is 0.2989: 1e-4 of 255 less.
    np.testing.assert_allclose(
        augment.random_grayscale(images, np.zeros(8, np.float32), 1.0),
        keras_cv.layers.Grayscale(3)(images),
        rtol=0,
        atol=0.0256,
    )
