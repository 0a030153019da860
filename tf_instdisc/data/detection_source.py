"""Images with boxes, independent of the format they are read from."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tf_instdisc.data import decode
from tf_instdisc.data.formats.image_file import FORMATS
from tf_instdisc.errors import UsageError
from tf_instdisc.text import listed


@dataclasses.dataclass(frozen=True)
class Objects:
    """The objects in one image.

    Attributes:
        boxes: float32 `[num_objects, 4]`: left, top, right, bottom edge in
            pixels of the stored image.
        classes: int64 `[num_objects]`.
        difficult: bool `[num_objects]`: objects that evaluation ignores.
    """

    boxes: np.ndarray
    classes: np.ndarray
    difficult: np.ndarray


@dataclasses.dataclass(frozen=True)
class DetectionSource:
    """Images with their objects, all in the same order.

    Attributes:
        name: A name for messages.
        class_names: One for each class.
        sizes: int64 `[num_images, 2]`, height and width in pixels.
        objects: One for each image; an image may have no objects.
        images: Returns the images as a data set of encoded scalar strings.
    """

    name: str
    class_names: tuple[str, ...]
    sizes: np.ndarray
    objects: tuple[Objects, ...]
    images: Callable[[], tf.data.Dataset]

    @property
    def num_images(self) -> int:
        """The number of images in an epoch."""
        return len(self.objects)


def build_source(
    name: str,
    class_names: Sequence[str],
    sizes: np.ndarray,
    objects: Sequence[Objects],
    images: Callable[[], tf.data.Dataset],
) -> DetectionSource:
    """Returns a source that has objects to detect.

    Raises:
        ValueError: If there are no objects, or all of them are difficult.
    """
    if all(entry.difficult.all() for entry in objects):
        raise UsageError(
            "A split must hold objects that are not difficult. Received: "
            f"{name}, whose {len(objects)} images have none"
        )
    return DetectionSource(
        name, tuple(class_names), sizes, tuple(objects), images
    )


def image_sizes(images: tf.data.Dataset, places: Sequence[str]) -> np.ndarray:
    """Returns height and width of all images, int64 `[num_images, 2]`.

    Args:
        images: Encoded images, scalar strings; each is decoded.
        places: The location of each image, for messages.

    Raises:
        ValueError: If an image cannot be decoded.
    """

    @tf.autograph.experimental.do_not_convert
    def size_of(
        index: tf.Tensor, contents: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        size = tf.shape(decode.decode_whole(contents))[:2]
        return index, tf.cast(size, tf.int64)

    dataset = images.enumerate().map(
        size_of, num_parallel_calls=tf.data.AUTOTUNE
    )
    sizes = np.zeros([len(places), 2], np.int64)
    for index, size in dataset.ignore_errors().as_numpy_iterator():
        sizes[index] = size
    bad = np.flatnonzero(sizes.min(axis=-1) == 0)
    require_none(
        [places[i] for i in bad.tolist()],
        f"Images must be {FORMATS} files that can be decoded",
        ValueError,
    )
    return sizes


def require_none(
    bad: Sequence[str], requirement: str, error: type[Exception]
) -> None:
    """Raises an error that names the bad items, if there are any."""
    if bad:
        raise error(
            f"{requirement}. Received {len(bad)} that fail: {listed(bad)}"
        )


def build_objects(
    boxes: np.ndarray | Sequence[Sequence[float]],
    classes: np.ndarray | Sequence[int],
    difficult: np.ndarray | Sequence[bool],
    size: np.ndarray,
    place: str,
) -> Objects:
    """Returns objects whose boxes are clipped to the image.

    Args:
        boxes: `[num_objects, 4]`, as in `Objects`.
        classes: `[num_objects]`.
        difficult: `[num_objects]`.
        size: `[2]`, height and width of the image.
        place: The location of the image, for messages.

    Raises:
        ValueError: If a box is empty after clipping.
    """
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    height, width = size
    cut = np.clip(boxes, 0, np.array([width, height] * 2, np.float32))
    # Comparisons with NaN are false.
    is_box = (cut[:, 2] > cut[:, 0]) & (cut[:, 3] > cut[:, 1])
    if not is_box.all():
        raise UsageError(
            "A box must cover a pixel of its image. Received: "
            f"{boxes[~is_box][0].tolist()} (left, top, right, bottom edge) "
            f"in {place}, an image of {width} x {height}"
        )
    return Objects(
        cut, np.asarray(classes, np.int64), np.asarray(difficult, bool)
    )
