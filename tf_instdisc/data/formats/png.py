"""PNG files: the chunks that decoding needs, without the others.

Text and color profiles are compressed: a kilobyte of them can expand to
megabytes.
"""

import tensorflow as tf

from tf_instdisc.data.formats import exif, zlib_stream
from tf_instdisc.data.formats.file_bytes import FileBytes, Stored, require

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_CHUNKS = 2000  # Chunks, or runs of equal chunks.
_RUN = 256
_HEADER_END = 33
_END = b"\x00\x00\x00\x00IEND\xae\x42\x60\x82"
_CHANNELS = (1, 0, 3, 1, 2, 0, 4)
"""Channels by color type."""
_SPARE = 65_536  # Tolerated bytes of pixel data beyond the pixels.
_EXPANSION = 1032  # The largest compression ratio of zlib.
_UNCOUNTED = 2**29  # Bytes after the last row that cost less than a second.
_COUNTED_CHUNKS = 20_000


def read(file: FileBytes, max_pixels: int, is_trusted: bool) -> Stored:
    """Keeps header, palette, alpha and pixel data; reads the EXIF chunk.

    Whether the image has alpha is stored at the end, for `decode`.
    """
    palette, alphas, pixels, exif_at, is_whole = _chunks(file)
    width, height = file.big(16, 4), file.big(20, 4)
    depth, color_type = tf.unstack(file.at(24, 2))
    channels = tf.gather(_CHANNELS, tf.clip_by_value(color_type, 0, 6))
    bits = width * tf.cast(depth * channels, tf.int64)
    most = height * (bits // 8 + 2)
    # Libpng inflates everything, even data after the last row.
    length = tf.cast(pixels[1] - pixels[0], tf.int64)
    is_header = tf.reduce_all(file.at(12, 4) == list(b"IHDR"))
    may_go_on = length * _EXPANSION > most + _UNCOUNTED
    may_go_on &= height <= max_pixels // tf.maximum(width, 1)
    may_go_on &= not is_trusted
    # An interlaced image has up to twice as many rows, each with its filter.
    most_inflated = most + 4 * height
    checks = [
        *require(is_header, "A PNG must begin with its header.", []),
        *require(
            is_whole & (pixels[1] > 0),
            f"A PNG must have pixels, and at most {_CHUNKS} chunks.",
            [],
        ),
        *require(
            length <= most + most // 8 + _SPARE,
            "A PNG must not hold more than its pixels. Received bytes:",
            [length],
        ),
    ]
    with tf.control_dependencies(checks):
        ends = tf.cond(
            may_go_on,
            lambda: ~zlib_stream.exceeds(_joined(file, pixels), most_inflated),
            lambda: tf.constant(True),
        )
    has_alpha = (color_type == 4) | (color_type == 6) | (alphas[1] > 0)
    message = "The pixel data of a PNG must end with its last row."
    with tf.control_dependencies(require(ends, message, [])):
        contents = tf.strings.join(
            [
                file.slice(0, _HEADER_END),
                file.slice(palette[0], palette[1]),
                file.slice(alphas[0], alphas[1]),
                file.slice(pixels[0], pixels[1]),
                _END,
                tf.where(has_alpha, b"\1", b"\0"),
            ]
        )
    orientation = exif.orientation(file, exif_at[0], exif_at[1])
    return Stored(contents, height, width, orientation)


def _chunks(
    file: FileBytes,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns start and end of palette, alphas, pixel data and EXIF data.

    The last value is whether all chunks were read.
    """
    # Like libpng, this requires the pixel data in consecutive chunks.
    run = tf.range(_RUN)[:, None]
    nothing = tf.constant([0, 0])

    def step(
        count: tf.Tensor,
        position: tf.Tensor,
        palette: tf.Tensor,
        alphas: tf.Tensor,
        pixels: tf.Tensor,
        exif_at: tf.Tensor,
        done: tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        head = file.at(position, 8)
        kind = head[4:]
        length = tf.minimum(head[0] * 2**24 + head[1] * 2**16, 2**30)
        length = tf.where(head[0] < 64, length, 2**30)
        length += head[2] * 256 + head[3]
        size = tf.minimum(length, file.length) + 12
        chunk = tf.stack([position, position + size])

        def is_kind(name: bytes) -> tf.Tensor:
            return tf.reduce_all(kind == list(name))

        is_pixels = is_kind(b"IDAT")
        palette = tf.where(is_kind(b"PLTE") & (palette[1] == 0), chunk, palette)
        is_alphas = is_kind(b"tRNS") & (alphas[1] == 0) & (pixels[1] == 0)
        alphas = tf.where(is_alphas, chunk, alphas)
        body = tf.stack([position + 8, position + size - 4])
        exif_at = tf.where(is_kind(b"eXIf"), body, exif_at)

        def chunks_alike() -> tf.Tensor:
            heads = file.gather(position + size * run + tf.range(8))
            is_alike = tf.reduce_all(heads == head, axis=1)
            alike = tf.math.cumprod(tf.cast(is_alike, tf.int32))
            return tf.reduce_sum(alike)

        # The first run of chunks counts; it may span several steps.
        is_first = is_pixels & ((pixels[1] == 0) | (pixels[1] == position))
        is_long = is_first & (position < 2**30 // _RUN)
        is_long &= size < 2**30 // _RUN
        alike = tf.cond(is_long, chunks_alike, lambda: tf.constant(1))
        end = position + size * alike
        begin = tf.where(pixels[1] == 0, position, pixels[0])
        pixels = tf.where(is_first, tf.stack([begin, end]), pixels)
        is_end = is_kind(b"IEND")
        return count + 1, end, palette, alphas, pixels, exif_at, is_end

    def condition(
        count: tf.Tensor, position: tf.Tensor, *others: tf.Tensor
    ) -> tf.Tensor:
        done = others[-1]
        return ~done & (count < _CHUNKS) & (position < file.length)

    count, _, palette, alphas, pixels, exif_at, _ = tf.while_loop(
        condition,
        step,
        [
            tf.constant(0),
            tf.constant(len(SIGNATURE)),
            nothing,
            nothing,
            nothing,
            nothing,
            tf.constant(False),
        ],
        parallel_iterations=1,
    )
    return palette, alphas, pixels, exif_at, count < _CHUNKS


def _joined(file: FileBytes, pixels: tf.Tensor) -> tf.Tensor:
    """Returns the data of consecutive chunks, a scalar string."""

    def step(
        count: tf.Tensor, position: tf.Tensor, parts: tf.TensorArray
    ) -> tuple[tf.Tensor, tf.Tensor, tf.TensorArray]:
        length = tf.minimum(
            file.big(position, 4), tf.cast(file.length, tf.int64)
        )
        body = position + 8
        end = body + tf.cast(length, tf.int32)
        return count + 1, end + 4, parts.write(count, file.slice(body, end))

    def condition(
        count: tf.Tensor, position: tf.Tensor, parts: tf.TensorArray
    ) -> tf.Tensor:
        return (position < pixels[1]) & (count < _COUNTED_CHUNKS)

    empty = tf.TensorArray(tf.string, 0, dynamic_size=True, element_shape=[])
    _, end, parts = tf.while_loop(
        condition, step, [tf.constant(0), pixels[0], empty]
    )
    message = f"A large PNG must have at most {_COUNTED_CHUNKS} chunks."
    with tf.control_dependencies(require(end >= pixels[1], message, [])):
        return tf.strings.reduce_join(parts.stack())


def decode(contents: tf.Tensor) -> tf.Tensor:
    """Returns uint8 `[height, width, 3 or 4]`, the upper 8 bits."""
    # Libpng ignores the byte after the last chunk.
    return tf.cond(
        tf.strings.substr(contents, -1, 1) == b"\1",
        lambda: tf.io.decode_png(contents, channels=4),
        lambda: tf.io.decode_png(contents, channels=3),
    )
