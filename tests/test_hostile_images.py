"""What an image costs is bounded, whatever its bytes are."""

import pathlib
import time
import zlib

import numpy as np
import pytest
import tensorflow as tf

from tests import hostile_files, picture_files
from tf_instdisc.data import decode
from tf_instdisc.data.formats import zlib_stream
from tf_instdisc.serving import image_bytes

MAX_PIXELS = 50_000_000
MAX_MIB = 300
MAX_CPU_SECONDS = 2.0


@pytest.fixture(scope="module")
def decode_batch():
    return tf.function(
        lambda contents: image_bytes.decode_batch(contents, 16, 1, MAX_PIXELS),
        input_signature=[tf.TensorSpec([None], tf.string)],
    )


@pytest.fixture(scope="module")
def check():
    return tf.function(
        decode.decode_smallest, input_signature=[tf.TensorSpec([], tf.string)]
    )


def _peak_mib():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _cost(function):
    """Growth of the peak in MiB, and CPU seconds."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before, start = _peak_mib(), time.process_time()
    result = function()
    return _peak_mib() - before, time.process_time() - start, result


@pytest.fixture(scope="module")
def honest(decode_batch):
    """Cost of the largest images that are allowed."""
    image = picture_files.smooth(7000, 7000)
    costs = []
    for options in ({}, {"progressive": True}):
        contents = tf.constant(
            [picture_files.encode(image, "JPEG", quality=60, **options)]
        )
        decode_batch(contents)
        mib, seconds, (_, valid) = _cost(lambda c=contents: decode_batch(c))
        assert valid.numpy().all()
        costs.append((mib, seconds))
    return np.max(costs, axis=0)


HOSTILE = hostile_files.hostile()


@pytest.mark.exhaustive_variants("zTXt")
@pytest.mark.parametrize("name", HOSTILE)
def test_no_image_costs_more_than_a_large_valid_one(
    decode_batch, check, honest, name
):
    good = picture_files.encode(picture_files.smooth(20, 20), "PNG")
    contents = tf.constant([good, HOSTILE[name]])
    decode_batch(contents[:1])
    check(contents[0])
    mib, seconds, (_, valid) = _cost(lambda: decode_batch(contents))
    print(f"{name}: {mib:.0f} MiB, {seconds:.2f} s, {valid.numpy()}")
    assert valid[0]
    assert mib <= MAX_MIB + honest[0]
    assert seconds <= MAX_CPU_SECONDS + honest[1]

    def read():
        try:
            return check(contents[1])
        except tf.errors.InvalidArgumentError:
            return None

    mib, seconds, _ = _cost(read)
    assert mib <= MAX_MIB + honest[0]
    assert seconds <= MAX_CPU_SECONDS + honest[1]
    if "small" not in name and "scans" not in name:
        # These are small and must cost less than a large valid image.
        assert mib <= MAX_MIB
        assert seconds <= MAX_CPU_SECONDS


@pytest.mark.exhaustive_variants("10000000*", "65536-True", "700-False")
@pytest.mark.parametrize("is_interlaced", [False, True])
@pytest.mark.parametrize("chunk_size", [700, 65_536, 10**7])
def test_a_large_valid_png_is_decoded(decode_batch, chunk_size, is_interlaced):
    rng = np.random.default_rng(0)
    image = rng.integers(256, size=(1001, 1001, 3), dtype=np.uint8)
    rows_of = picture_files.rows_of
    if is_interlaced:
        rows_of = picture_files.interlaced_rows_of
    data = zlib.compress(rows_of(image))
    contents = picture_files.compressed_png(
        1001, 1001, data, interlace=is_interlaced, chunk_size=chunk_size
    )
    pixels = tf.function(decode.decode_whole)(tf.constant(contents))
    np.testing.assert_array_equal(pixels, image)
    # Its files in memory are not mistaken for one another.
    _, valid = decode_batch(tf.constant([contents] * 16))
    assert valid.numpy().all()


@pytest.mark.exhaustive_variants("1000000000")
@pytest.mark.parametrize("behind", [10**9, 2**29, 0])
def test_a_png_must_end_with_its_last_row(behind):
    """Half of the image compresses badly, so that its file may be long."""
    rng = np.random.default_rng(0)
    image = rng.integers(256, size=(1001, 1001, 3), dtype=np.uint8)
    image[500:] = 0
    compressor = zlib.compressobj(9)
    data = compressor.compress(picture_files.rows_of(image))
    zeros = bytes(2**20)
    for _ in range(behind // 2**20):
        data += compressor.compress(zeros)
    data += compressor.flush()
    contents = tf.constant(
        picture_files.compressed_png(1001, 1001, data, chunk_size=65_536)
    )
    whole = tf.function(decode.decode_whole)
    if behind:
        with pytest.raises(tf.errors.InvalidArgumentError, match="last row"):
            whole(contents)
    else:
        np.testing.assert_array_equal(whole(contents), image)


def test_numbers_of_files_in_memory_repeat_late():
    def number(_):
        return zlib_stream.unused_number()

    dataset = tf.data.Dataset.range(2 * zlib_stream.NAMES)
    dataset = dataset.map(number, num_parallel_calls=4)
    numbers = list(dataset.as_numpy_iterator())
    # Parallel calls may exchange their order.
    first = set(numbers[: zlib_stream.NAMES - 4])
    assert len(first) == zlib_stream.NAMES - 4
    assert len(set(numbers)) == zlib_stream.NAMES


READ_ANYWAY = ("zTXt", "iTXt", "iCCP", "GIF frames", "WebP frames")


@pytest.mark.parametrize("name", READ_ANYWAY)
def test_valid_images_with_extra_data_are_read(decode_batch, name):
    _, valid = decode_batch(tf.constant([HOSTILE[name]]))
    assert valid.numpy().all()


@pytest.mark.parametrize("seed", range(4))
def test_mutated_images_neither_crash_nor_cost_much(decode_batch, seed):
    """100 of each seed, beside a good image that must not change."""
    rng = np.random.default_rng(seed)
    seeds = list(picture_files.matrix().values())
    good = picture_files.encode(picture_files.smooth(20, 20), "PNG")
    expected = decode_batch(tf.constant([good]))[0][0]
    inputs = []
    for _ in range(100):
        contents = bytearray(seeds[rng.integers(len(seeds))])
        for _ in range(rng.integers(1, 5)):
            # Mostly in the header, where lengths and sizes are.
            end = len(contents) if rng.random() < 0.5 else 80
            at = rng.integers(min(end, len(contents)))
            kind = rng.integers(3)
            if kind == 0:
                contents[at] = rng.choice([0, 1, 127, 128, 255])
            elif kind == 1:
                contents[at : at + 4] = rng.bytes(4)
            else:
                del contents[at : at + rng.integers(1, 9)]
        inputs.append(bytes(contents))

    def decode_all():
        return [
            decode_batch(tf.constant([*inputs[i : i + 20], good]))
            for i in range(0, 100, 20)
        ]

    mib, seconds, answers = _cost(decode_all)
    assert mib < 2 * MAX_MIB
    assert seconds < 30
    for images, valid in answers:
        assert valid[-1]
        np.testing.assert_array_equal(images[-1], expected)
        assert np.isfinite(images).all()
        assert not images.numpy()[~valid.numpy()].any()
