"""Features of a TFDS dataset, and the images among them.

A key is the name of a feature; `/` separates the levels of nested features,
but may also be a part of a name, as in TFDS' `image/filename`.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from tf_instdisc.data.formats.image_file import on_white
from tf_instdisc.errors import UsageError
from tf_instdisc.text import listed

_CHANNELS = (1, 3, 4)
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_SAMPLED = 1000  # Images that determine the value range.


@dataclasses.dataclass(frozen=True)
class ImageFeature:
    """The feature that holds the images.

    Attributes:
        key: The key of the feature.
        shape: Height, width and channels; None where they vary.
        dtype: Name of the type of the stored values.
        is_file: Whether an example contains an 8-bit image file.
    """

    key: str
    shape: tuple[int | None, int | None, int]
    dtype: str
    is_file: bool


def find_image(
    features: tfds.features.FeaturesDict, key: str | None, dataset: str
) -> ImageFeature:
    """Finds the images of a dataset.

    Args:
        key: The key of the images; None stands for `image`.

    Raises:
        UsageError: If there is no such feature, or it is not a single image.
            The message suggests the keys of features that are.
    """
    key = key or "image"
    known = dict(walk(features))
    fitting = [name for name, feature in known.items() if _is_image(feature)]
    # Masks are images too, but are not suggested for training.
    fitting = [
        name
        for name in fitting
        if not isinstance(known[name], tfds.features.LabeledImage)
    ] or fitting
    hint = f"No feature of {dataset} holds one image."
    if fitting:
        fitting.sort(key=lambda name: (name.count("/"), name))
        hint = f"Give --image_key={' or --image_key='.join(fitting)}."
    feature = known.get(key)
    if feature is None:
        raise UsageError(
            f"`image_key` must be a feature of {dataset}: "
            f"{listed(sorted(known))}. Received: "
            f"image_key={key!r}. {hint}"
        )
    if not _is_image(feature):
        raise UsageError(
            "`image_key` must be an image, or a tensor [height, width, 1, 3 "
            "or 4] of uint8, uint16 or float. Received: "
            f"image_key={key!r}, a {described(feature)}. {hint}"
        )
    dtype = np.dtype(feature.np_dtype).name
    is_image = isinstance(feature, tfds.features.Image)
    return ImageFeature(
        key, feature.shape, dtype, is_image and dtype == "uint8"
    )


def at(example: Mapping[str, Any], key: str) -> Any:
    """Returns the value of a key in nested dictionaries."""
    return functools.reduce(
        lambda tree, part: tree[part], _path(example, key), example
    )


def nested(
    values: Mapping[str, Any], features: Mapping[str, Any]
) -> dict[str, Any]:
    """Converts values by key to nested dictionaries.

    Args:
        features: The features of the dataset, among which the keys are.
    """
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *parts, last = _path(features, key)
        branch = tree
        for part in parts:
            branch = branch.setdefault(part, {})
        branch[last] = value
    return tree


def _path(tree: Mapping[str, Any], key: str) -> list[str]:
    """Returns the names on the levels of a key; a name may contain a `/`."""
    if key in tree:
        return [key]
    for name in tree:
        if key.startswith(f"{name}/"):
            return [name, *_path(tree[name], key.removeprefix(f"{name}/"))]
    raise KeyError(key)


def value_range(
    images: tf.data.Dataset, dtype: str, dataset: str
) -> tuple[float, float]:
    """Returns the values that represent black and white.

    For uint8 and uint16, these are the limits of the type. Float images are
    in [0, 1] if the first 1,000 are, and otherwise in [0, 255].

    Args:
        images: Images of one split, in a fixed order.
        dtype: Name of their type.
    """
    if dtype not in _FLOATS:
        return 0.0, float(np.iinfo(dtype).max)

    def extremes(image: tf.Tensor) -> tf.Tensor:
        image = tf.cast(image, tf.float32)
        return tf.stack([tf.reduce_min(image), tf.reduce_max(image)])

    sampled = images.take(_SAMPLED).map(
        extremes, num_parallel_calls=tf.data.AUTOTUNE
    )
    found = np.stack(list(sampled.as_numpy_iterator()))
    low, high = float(found[:, 0].min()), float(found[:, 1].max())
    # NaN fails every comparison.
    if not (low >= 0 and high <= 255):
        raise UsageError(
            "Float images must have values in [0, 1] or in [0, 255]. "
            f"Received: {dataset}, with values from {low:g} to {high:g}"
        )
    return 0.0, 1.0 if high <= 1 else 255.0


def to_uint8(
    image: tf.Tensor, limits: tuple[float, float], is_file: bool
) -> tf.Tensor:
    """Scales and rounds an image to 0..255, in at most three channels.

    Args:
        image: `[height, width, 1, 3 or 4]`.
        limits: From `value_range`.
        is_file: Whether it was stored as an 8-bit image file, in which case the
            fourth channel is alpha, and the image is composited on white.
            Otherwise, the fourth channel is dropped.

    Returns:
        uint8 `[height, width, 1 or 3]`.
    """
    if image.shape[-1] == 4:
        image = on_white(image) if is_file else image[..., :3]
    if image.dtype == tf.uint8:
        return image
    low, high = limits
    scaled = (tf.cast(image, tf.float32) - low) * (255.0 / (high - low))
    return tf.cast(tf.clip_by_value(tf.round(scaled), 0, 255), tf.uint8)


def walk(
    features: tfds.features.FeaturesDict, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yields keys and features, including nested ones."""
    for name, feature in features.items():
        if isinstance(feature, tfds.features.FeaturesDict):
            yield from walk(feature, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", feature


def _is_image(feature: tfds.features.FeatureConnector) -> bool:
    kinds = (tfds.features.Image, tfds.features.Tensor)
    if not isinstance(feature, kinds) or len(feature.shape) != 3:
        return False
    dtype = np.dtype(feature.np_dtype).name
    return feature.shape[-1] in _CHANNELS and (
        dtype in ("uint8", "uint16", *_FLOATS)
    )


def described(feature: tfds.features.FeatureConnector) -> str:
    """Describes a feature in a message."""
    kind = type(feature).__name__
    if not hasattr(feature, "tf_dtype") or isinstance(feature.shape, dict):
        return kind
    dtype = getattr(feature.tf_dtype, "name", feature.tf_dtype)
    return f"{kind} of shape {feature.shape} and type {dtype}"
