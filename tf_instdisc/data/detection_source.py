"""Images with boxes, independent of the format they are read from."""

import dataclasses
import sys
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tf_instdisc.data import file_checks
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

    Raises UsageError if there are no objects, or all of them are difficult.

    Attributes:
        name: A name for messages.
        class_names: One for each class.
        sizes: int64 `[num_images, 2]`, height and width in pixels.
        objects: One for each image; an image may have no objects.
        images: Returns the images as a dataset of encoded scalar strings.
    """

    name: str
    class_names: tuple[str, ...]
    sizes: np.ndarray
    objects: tuple[Objects, ...]
    images: Callable[[], tf.data.Dataset]

    def __post_init__(self) -> None:
        if all(entry.difficult.all() for entry in self.objects):
            raise UsageError(
                "A split must hold objects that are not difficult. Received: "
                f"{self.name}, whose {len(self.objects)} images have none"
            )

    @property
    def num_images(self) -> int:
        """The number of images in an epoch."""
        return len(self.objects)


def image_sizes(images: tf.data.Dataset, places: Sequence[str]) -> np.ndarray:
    """Returns height and width of all images, int64 `[num_images, 2]`.

    Args:
        images: Encoded images, scalar strings; each is decoded.
        places: The location of each image, for messages.

    Raises:
        UsageError: If an image cannot be decoded.
    """
    sizes = np.zeros([len(places), 2], np.int64)
    for index, size, _ in file_checks.decodable(images).as_numpy_iterator():
        sizes[index] = size
    bad = np.flatnonzero(sizes.min(axis=-1) == 0)
    require_none(
        [places[i] for i in bad.tolist()],
        f"Images must be {FORMATS} files that can be decoded",
        UsageError,
    )
    return sizes


def within_images(
    name: str, objects: Sequence[Objects], sizes: np.ndarray
) -> tuple[Objects, ...]:
    """Clips boxes to their images, and leaves out those that are then empty.

    A line on standard error reports how many boxes are left out.

    Args:
        name: A name for the line.
        objects: One for each image. A box with a NaN is empty.
        sizes: int64 `[num_images, 2]`, height and width in pixels.
    """
    kept, left_out = [], []
    for entry, (height, width) in zip(objects, sizes, strict=True):
        edges = np.array([width, height] * 2, np.float32)
        boxes = np.clip(entry.boxes, 0, edges)
        # Comparisons with NaN are false.
        is_box = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        kept.append(
            Objects(
                boxes[is_box], entry.classes[is_box], entry.difficult[is_box]
            )
        )
        left_out.append(np.sum(~is_box))
    if any(left_out):
        print(
            f"{name}: boxes that cover no pixel of their image are left out: "
            f"{sum(left_out)} in {np.count_nonzero(left_out)} images",
            file=sys.stderr,
            flush=True,
        )
    return tuple(kept)


def require_none(
    bad: Sequence[str], requirement: str, error: type[UsageError]
) -> None:
    """Raises an error that names the bad items, if there are any."""
    if bad:
        raise error(
            f"{requirement}. Received {len(bad)} that fail: {listed(bad)}. "
            "Add or repair them, or leave them out of the split."
        )
