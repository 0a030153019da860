"""Encodes the pictures of a collection when they are asked for."""

import os
import tempfile
import threading
import traceback
from collections.abc import Callable
from concurrent import futures
from typing import BinaryIO, TypeVar

import numpy as np
import tensorflow as tf

from tf_instdisc.data import decode, scaling
from tf_instdisc.paths import local_path
from tf_instdisc.runs.images import RunImages

SIDE = 128  # Of a thumbnail, in pixels.
_LONGEST = 1024  # Side of a whole picture.
_QUALITY = 88
_Result = TypeVar("_Result")


def in_background(function: Callable[[], _Result]) -> futures.Future[_Result]:
    """Calls a function in a thread that does not keep the process alive.

    The threads of an executor would be waited for when the server ends.
    """
    future: futures.Future[_Result] = futures.Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            # The page shows one sentence; the traceback is for developers.
            traceback.print_exception(error)
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


class NotReadYetError(Exception):
    """The picture is available only after its dataset has been read."""


class FolderPictures:
    """Reads the pictures of a folder, and no other file.

    Args:
        folder: The folder; None if the images are not known.
        names: Paths of the images relative to the folder.
    """

    is_ready = True

    def __init__(self, folder: str | None, names: np.ndarray):
        self._folder, self._names = folder, names

    def thumbnail(self, position: int) -> bytes | None:
        """Returns a square JPEG; None if the image is missing."""
        return self._read(position, _thumbnail)

    def whole(self, position: int) -> bytes | None:
        """Returns the whole image as a JPEG; None if it is missing."""
        return self._read(position, _whole)

    def _read(
        self, position: int, encode: tf.types.experimental.PolymorphicFunction
    ) -> bytes | None:
        name = str(self._names[position])
        # A damaged or foreign bank must not lead out of the folder.
        if self._folder is None or os.path.isabs(name):
            return None
        if os.pardir in name.split("/"):
            return None
        try:
            return encode(
                tf.io.read_file(os.path.join(self._folder, name))
            ).numpy()
        except (tf.errors.OpError, UnicodeEncodeError, ValueError):
            return None


class DatasetPictures:
    """Keeps thumbnails of a dataset, which can only be read in order.

    One pass in the background writes them to a temporary file.

    Args:
        images: The images of a run over a dataset, whose source is open.
    """

    def __init__(self, images: RunImages):
        size = len(images.bank.rows)
        self._file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115  Kept.
        self._starts = np.zeros([size], np.int64)
        self._lengths = np.zeros([size], np.int64)
        self._pass = in_background(lambda: self._fill(images))

    @property
    def is_ready(self) -> bool:
        return self._pass.done()

    def thumbnail(self, position: int) -> bytes | None:
        """Returns a square JPEG; None if the image is missing.

        Raises:
            NotReadYetError: If the image has not been read yet.
        """
        length = int(self._lengths[position])
        if length:
            start = int(self._starts[position])
            return os.pread(self._file.fileno(), length, start)
        if not self.is_ready:
            raise NotReadYetError
        return None

    whole = thumbnail

    def _fill(self, images: RunImages) -> None:
        place = 0
        every = np.arange(len(self._starts))
        for positions, batch in images.batches(every, SIDE):
            contents = _jpegs(batch).numpy()
            self._file.write(b"".join(contents))
            self._file.flush()
            lengths = np.array([len(content) for content in contents])
            self._starts[positions] = place + np.cumsum(lengths) - lengths
            # Set last, as it is what readers look at.
            self._lengths[positions] = lengths
            place += int(lengths.sum())


Pictures = FolderPictures | DatasetPictures


def pictures_of(images: RunImages) -> Pictures:
    """Returns the pictures of a run."""
    if images.source is not None:
        return DatasetPictures(images)
    folder = images.config.data.images
    folder = folder and local_path(folder, "images")
    return FolderPictures(folder, images.bank.names)


def _jpeg(image: tf.Tensor) -> tf.Tensor:
    image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
    return tf.io.encode_jpeg(image, "rgb", _QUALITY)


@tf.function(
    input_signature=[tf.TensorSpec([None, SIDE, SIDE, 3])], autograph=False
)
def _jpegs(images: tf.Tensor) -> tf.Tensor:
    return tf.map_fn(_jpeg, images, fn_output_signature=tf.string)


_CONTENT = [tf.TensorSpec([], tf.string)]


@tf.function(input_signature=_CONTENT, autograph=False)
def _thumbnail(content: tf.Tensor) -> tf.Tensor:
    return _jpeg(decode.decode_center(content, SIDE, 1.0))


@tf.function(input_signature=_CONTENT, autograph=False)
def _whole(content: tf.Tensor) -> tf.Tensor:
    image = decode.decode_whole(content)
    sides = tf.cast(tf.shape(image)[:2], tf.float32)
    scale = tf.minimum(1.0, _LONGEST / tf.reduce_max(sides))
    sides = tf.maximum(tf.cast(tf.round(sides * scale), tf.int32), 1)
    return _jpeg(tf.ensure_shape(scaling.resize(image, sides), [None, None, 3]))
