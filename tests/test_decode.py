"""Decoded pixels are those that people see, in every format and mode."""

import io
import resource
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests import picture_files
from tf_instdisc.data import decode
from tf_instdisc.data.augment import (
    NO_COLOR_CHANGES,
    NUM_UNIFORMS,
    Augmentation,
    crop_boxes,
)

CONTENTS = [tf.TensorSpec([], tf.string)]
MATRIX = picture_files.matrix()
WITH_EXIF = {
    "jpeg": ("JPEG", {"subsampling": 0, "quality": 95}),
    "progressive": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {}),
    "lossless webp": ("WEBP", {"lossless": True}),
}
AUGMENTATION = Augmentation(16, **NO_COLOR_CHANGES, flip=False)


@pytest.fixture(scope="module")
def whole():
    return tf.function(decode.decode_whole, input_signature=CONTENTS)


@pytest.fixture(scope="module")
def center():
    return tf.function(
        lambda contents: decode.decode_center(contents, 16, 0.875),
        input_signature=CONTENTS,
    )


@pytest.fixture(scope="module")
def crop():
    return tf.function(
        lambda contents, uniforms: decode.decode_crop(
            contents, uniforms, AUGMENTATION
        ),
        input_signature=[
            *CONTENTS,
            tf.TensorSpec([NUM_UNIFORMS], tf.float32),
        ],
    )


@pytest.mark.parametrize("name", MATRIX)
def test_pixels_are_those_that_pillow_shows(whole, name):
    expected = picture_files.seen(MATRIX[name])
    actual = whole(MATRIX[name]).numpy()
    assert actual.dtype == np.uint8
    assert actual.shape == expected.shape
    assert _difference(actual, expected) <= 1


def _difference(actual, expected):
    return np.abs(
        np.asarray(actual, float) - np.asarray(expected, float)
    ).mean()


@pytest.mark.parametrize("mode", ["I;16", "RGB", "RGBA", "LA"])
def test_the_upper_8_of_16_bits_are_shown(whole, mode):
    values = np.random.default_rng(0).integers(0, 2**16, (9, 7, 4), np.uint16)
    count = {"I;16": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode]
    color = {"I;16": 0, "LA": 4, "RGB": 2, "RGBA": 6}[mode]
    rows = values[..., :count].astype(">u2").reshape(9, -1).view(np.uint8)
    contents = bytearray(
        picture_files.png(9, 7, b"".join(b"\0" + r.tobytes() for r in rows))
    )
    contents[8:33] = picture_files.chunk(
        b"IHDR", contents[16:24] + bytes([16, color, 0, 0, 0])
    )
    # Pillow clips what is above 255.
    expected = values[..., : 3 if count > 2 else 1] // 256
    if mode.endswith("A"):
        alpha = values[..., count - 1 : count] // 256 / 255
        expected = np.round(expected * alpha + 255 * (1 - alpha))
    actual = whole(bytes(contents))
    np.testing.assert_array_equal(actual, np.broadcast_to(expected, (9, 7, 3)))


TRANSPARENT = {
    "png": ("PNG", {}),
    "webp": ("WEBP", {"quality": 99}),
    "lossless webp": ("WEBP", {"lossless": True}),
    "animated webp": ("WEBP", {"save_all": True, "lossless": True}),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparent_images_are_shown_on_white(whole, center, crop, kind):
    """They differ in their alpha only, as icons do."""
    suffix, options = TRANSPARENT[kind]
    pictures = []
    for shape in ("disk", "box"):
        icon = picture_files.icon((0, 0, 0), shape)
        if "animated" in kind:
            options = options | {"append_images": [icon.rotate(90)]}
        contents = picture_files.encode(icon, suffix, **options)
        pictures.append(whole(contents).numpy())
        np.testing.assert_array_equal(
            pictures[-1], picture_files.seen(contents)
        )
        assert (pictures[-1][0, 0] == 255).all()
        assert (pictures[-1][20, 20] == 0).all()
        assert np.max(center(contents)) > 250
        assert np.max(crop(contents, tf.zeros([NUM_UNIFORMS]))) > 250
    assert (pictures[0] != pictures[1]).any()


def test_all_colors_and_opacities_are_rounded_on_white(whole):
    values = np.arange(256, dtype=np.uint8)
    image = np.stack(np.meshgrid(values, values), axis=-1)
    contents = picture_files.encode(Image.fromarray(image, "LA"), "PNG")
    gray, alpha = image[..., :1].astype(float), image[..., 1:] / 255
    expected = np.round(gray * alpha + 255 * (1 - alpha))
    actual = whole(contents)
    np.testing.assert_array_equal(
        actual, np.broadcast_to(expected, (256, 256, 3))
    )
    np.testing.assert_array_equal(actual, picture_files.seen(contents))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", WITH_EXIF)
def test_orientation_is_honored_everywhere(whole, center, crop, kind, order):
    """All eight: whole, evaluation's center, and random crops."""
    image = picture_files.smooth(45, 61)
    uniforms = tf.random.stateless_uniform([4, NUM_UNIFORMS], [1, 2])
    suffix, options = WITH_EXIF[kind]
    for value in range(1, 9):
        exif = picture_files.exif(value, order)
        contents = picture_files.encode(image, suffix, exif=exif, **options)
        expected = picture_files.seen(contents)
        assert expected.shape == ((61, 45, 3) if value > 4 else (45, 61, 3))
        assert _difference(whole(contents), expected) <= 1
        upright = decode.resize_and_center_crop(
            tf.constant(expected), 16, 0.875
        )
        np.testing.assert_allclose(center(contents), upright, atol=0.5)
        for row in uniforms:
            box = crop_boxes(row[None], *expected.shape[:2], AUGMENTATION)[0]
            top, left, height, width = box.numpy()
            part = expected[top : top + height, left : left + width]
            part = _resized(tf.constant(part), [16, 16])
            assert _difference(crop(contents, row), part) <= 1


@pytest.mark.parametrize("kind", [1, 3, 4])
def test_the_orientation_may_have_any_integer_type(whole, kind):
    image = picture_files.smooth(20, 30)
    for order in "<>":
        exif = picture_files.exif(6, order, kind)
        contents = picture_files.encode(image, "JPEG", exif=exif)
        assert whole(contents).shape == (30, 20, 3)


@pytest.mark.parametrize("name", picture_files.GARBAGE_EXIF)
def test_garbage_in_exif_is_harmless(whole, name):
    image = picture_files.smooth(20, 30)
    exif = picture_files.GARBAGE_EXIF[name]
    for kind in ("JPEG", "WEBP", "PNG"):
        contents = picture_files.encode(image, kind, exif=exif)
        upright = picture_files.encode(image, kind)
        np.testing.assert_array_equal(whole(contents), whole(upright))


def test_exif_after_the_pixels_of_a_png_counts(whole):
    image = np.asarray(picture_files.smooth(20, 30))
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    contents = picture_files.png(20, 30, rows)
    exif = picture_files.chunk(b"eXIf", picture_files.exif(6)[6:])
    contents = contents[:-12] + exif + contents[-12:]
    np.testing.assert_array_equal(whole(contents), picture_files.seen(contents))
    assert whole(contents).shape == (30, 20, 3)


def _of_bits(bits):
    contents = MATRIX["bmp 8"]
    return contents[:28] + bytes([bits]) + contents[29:]


UNREADABLE = {
    "nothing": b"",
    "text": b"no image",
    "tiff": picture_files.encode(picture_files.smooth(9, 9), "TIFF"),
    "jpeg 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(99),
    "jpeg xl": b"\xff\x0a" + bytes(99),
    "bmp of run lengths": MATRIX["bmp 8"][:30]
    + b"\x01\0\0\0"
    + MATRIX["bmp 8"][34:],
    **{f"bmp of {bits} bits": _of_bits(bits) for bits in (1, 2, 4, 16)},
    "bmp of odd masks": MATRIX["bmp 32, masks"][:54]
    + struct.pack("<III", 0xFF, 0xFF00, 0xFF0000)
    + MATRIX["bmp 32, masks"][66:],
    # Its header has 12 bytes, and its sides have two each.
    "bmp of OS/2": b"BM\x1d\0\0\0\0\0\0\0\x1a\0\0\0"
    + struct.pack("<IHHHH", 12, 1, 1, 1, 24)
    + bytes(40),
    **{
        f"half of {name}": contents[: len(contents) // 2]
        for name, contents in MATRIX.items()
        # Their first image is in their first half.
        if "animated" not in name and "pair" not in name and "more" not in name
    },
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_refused(whole, center, name):
    for function in (whole, center):
        with pytest.raises(tf.errors.InvalidArgumentError):
            function(UNREADABLE[name])


def test_garbage_before_a_scan_is_not_a_header(whole):
    """Libjpeg skips it, too."""
    image = picture_files.smooth(20, 30)
    contents = picture_files.encode(image, "JPEG")
    scan = contents.index(b"\xff\xda")
    # Without the first byte of a marker: a frame of 4096 x 4096, and EXIF.
    frame = bytes.fromhex("00C0 0011 08 1000 1000 03")
    exif = b"\0\xe1\0\x80" + picture_files.exif(6)
    garbage = contents[:scan] + frame + exif + contents[scan:]
    np.testing.assert_array_equal(whole(garbage), whole(contents))


@pytest.mark.parametrize("size", [(40, 60), (90, 31), (16, 16), (333, 500)])
@pytest.mark.parametrize("fraction", [1.0, 0.875])
def test_the_center_is_that_of_the_resized_image(size, fraction):
    """As before: resize so that the shorter side fits, then crop."""
    image = tf.constant(np.asarray(picture_files.smooth(*size)))
    shorter = round(24 / fraction)
    scaled = np.round(np.array(size) * (shorter / min(size))).astype(int)
    top, left = (scaled - 24) // 2
    resized = _resized(image, scaled.tolist())
    expected = resized[top : top + 24, left : left + 24]
    actual = decode.resize_and_center_crop(image, 24, fraction)
    np.testing.assert_allclose(actual, expected, atol=1e-3)
    contents = tf.io.encode_png(image)
    actual = decode.decode_center(contents, 24, fraction)
    np.testing.assert_allclose(actual, expected, atol=1e-3)


def _resized(image, size):
    return tf.image.resize(image, size, antialias=True)


def _photo(height, width):
    """Detail at many scales, as photographs have."""
    rng = np.random.default_rng(3)
    image = np.zeros([height, width, 3])
    for octave in range(3, 9):
        shape = (height // 2**octave + 2, width // 2**octave + 2, 3)
        noise = rng.normal(0, 6 * 1.6**octave, shape) + 128
        noise = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
        image += np.asarray(noise.resize((width, height), Image.BICUBIC))
    return Image.fromarray((image / 6).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("value", [1, 6])
def test_large_jpegs_decoded_small_equal_the_full_decode(value):
    image = _photo(1200, 1600)
    exif = picture_files.exif(value)
    contents = picture_files.encode(image, "JPEG", quality=90, exif=exif)
    shown = tf.constant(picture_files.seen(contents))
    uniforms = tf.random.stateless_uniform([3, NUM_UNIFORMS], [5, 6])
    for size in (16, 64, 224):
        expected = decode.resize_and_center_crop(shown, size, 0.875)
        actual = decode.decode_center(contents, size, 0.875)
        assert _difference(actual, expected) <= 2
        augmentation = Augmentation(size)
        for row in uniforms:
            box = crop_boxes(row[None], *shown.shape[:2], augmentation)[0]
            top, left, height, width = box.numpy()
            part = shown[top : top + height, left : left + width]
            expected = _resized(part, [size, size])
            actual = decode.decode_crop(contents, row, augmentation)
            assert _difference(actual, expected) <= 2


@pytest.mark.exhaustive_variants(
    "JPEG-1-60000", "PNG-1-60000", "PNG-2-20000", "PNG-3000*"
)
@pytest.mark.parametrize(
    ("height", "width"), [(1, 3000), (3000, 1), (2, 20_000), (1, 60_000)]
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_thin_images_are_cheap(kind, height, width):
    image = Image.fromarray(
        np.arange(height * width * 3).astype(np.uint8).reshape(height, width, 3)
    )
    contents = picture_files.encode(image, kind)
    row = tf.random.stateless_uniform([NUM_UNIFORMS], [1, 2])
    before = _peak_mib()
    decode.decode_center(contents, 224, 0.875)
    decode.decode_crop(contents, row, Augmentation(224))
    decode.resize_and_center_crop(tf.constant(np.asarray(image)), 224, 0.875)
    assert _peak_mib() - before < 100


def _peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_a_photograph_of_50_megapixels_costs_little_memory():
    image = Image.fromarray(np.zeros([1, 1, 3], np.uint8)).resize((8192, 6144))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    contents = buffer.getvalue()
    del image
    row = tf.zeros([NUM_UNIFORMS])
    decode.decode_center(contents, 32, 0.875)
    before = _peak_mib()
    decode.decode_center(contents, 224, 0.875)
    decode.decode_crop(contents, row, Augmentation(224))
    assert _peak_mib() - before < 300
