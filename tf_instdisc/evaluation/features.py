"""Computes the activations of an encoder's layers and caches them on disk."""

import contextlib
import dataclasses
import hashlib
import math
import pathlib
import shutil
import sys
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tf_instdisc import checksums, progress
from tf_instdisc.config import DataConfig
from tf_instdisc.config.encoder import LAYERS
from tf_instdisc.config.fields import require_choice
from tf_instdisc.data import pipeline
from tf_instdisc.data.sources import ImageSource
from tf_instdisc.errors import DamagedFileError, StorageError
from tf_instdisc.runs.embedding import BATCH_SIZE, inference, on_devices

_DTYPE = np.float16
_ENCODER_PREFIX = "encoder-"


@dataclasses.dataclass(frozen=True)
class Features:
    """Activations of labeled images.

    Attributes:
        values: For each layer, float16 `[size, num_features]`, memory-mapped
            from disk.
        labels: Non-negative int64 `[size]`.
    """

    values: dict[str, np.ndarray]
    labels: np.ndarray


def available_layers(encoder: keras.Model) -> tuple[str, ...]:
    """Returns which of `conv1` .. `conv5` and `embedding` exist."""
    names = {layer.name for layer in encoder.layers}
    return tuple(
        name for name in LAYERS if name in names or name == "embedding"
    )


def require_layers(encoder: keras.Model, names: Sequence[str]) -> None:
    """Raises ValueError unless an encoder has all these layers."""
    known = available_layers(encoder)
    for name in names:
        require_choice("layer", name, known)


def feature_model(
    encoder: keras.Model, names: Sequence[str], num_features: int
) -> keras.Model:
    """Builds a model that maps images to pooled, flattened activations.

    Feature maps are average-pooled to a square grid whose side is the square
    root of `num_features` / channels, rounded to the nearest integer: the
    paper's linear classifiers use about 9,000 values of each layer (Zhang et
    al. 2017, arXiv 1611.09842). Smaller maps are left unchanged.

    Args:
        encoder: A functional model.
        names: Names of layers; `embedding` is the encoder's output.
        num_features: Approximate number of values to which a layer is pooled.

    Returns:
        A model with one output for each name, `[batch, num_features]`.
    """
    outputs = []
    for name in names:
        is_output = name == "embedding"
        x = encoder.outputs[0] if is_output else encoder.get_layer(name).output
        if len(x.shape) == 4:
            side = max(1, round(math.sqrt(num_features / x.shape[-1])))
            height, width = (min(side, size) for size in x.shape[1:3])
            if (height, width) != tuple(x.shape[1:3]):
                x = layers.AdaptiveAveragePooling2D((height, width))(x)
        elif len(x.shape) == 3:
            length = max(1, round(num_features / x.shape[-1]))
            if length < x.shape[1]:
                x = layers.AdaptiveAveragePooling1D(length)(x)
        outputs.append(layers.Flatten(dtype="float32")(x))
    return keras.Model(encoder.inputs[0], outputs)


def extract(
    encoder: keras.Model,
    source: ImageSource,
    names: Sequence[str],
    directory: pathlib.Path,
    num_features: int = 9000,
    crop_fraction: float = DataConfig.crop_fraction,
    digest: str | None = None,
) -> Features:
    """Returns the activations of all labeled images, cached on disk.

    The cache is keyed by the encoder's weights, the images' bytes and labels,
    and the resizing of images and feature maps. Activations of another encoder
    are removed from the directory. Only one batch is held in memory at a time.

    Args:
        encoder: A functional model.
        source: The images.
        names: Names of layers, as in `feature_model`.
        directory: The directory of the cache; it is created if it is missing.
        num_features: As in `feature_model`.
        crop_fraction: As in `evaluation_dataset`.
        digest: The `data_digest` of the source, if it is known. Computing it
            reads all images.

    Raises:
        StorageError: If there is not enough disk space.
    """
    names = tuple(dict.fromkeys(names))
    place = directory / f"{_ENCODER_PREFIX}{encoder_digest(encoder)}"
    if directory.exists():
        for old in directory.glob(f"{_ENCODER_PREFIX}*"):
            if old != place:
                shutil.rmtree(old)
    digest = digest or data_digest(source)
    settings = f"{digest}-{num_features}-{crop_fraction:g}"
    place /= settings
    place.mkdir(parents=True, exist_ok=True)
    labels = labels_of(source)
    missing = [name for name in names if not _is_whole(_file(place, name))]
    if missing:
        _write(
            feature_model(encoder, missing, num_features),
            pipeline.evaluation_dataset(
                source, int(encoder.input_shape[1]), BATCH_SIZE, crop_fraction
            ),
            len(labels),
            [_file(place, name) for name in missing],
        )
    values = {
        name: np.load(_file(place, name), mmap_mode="r") for name in names
    }
    return Features(values, labels)


def labels_of(source: ImageSource) -> np.ndarray:
    """Returns the int64 labels of the readable, labeled images."""
    labels = np.delete(source.labels(), source.unreadable)
    return labels[labels >= 0]


@contextlib.contextmanager
def feature_directory(
    directory: pathlib.Path, keep: bool
) -> Iterator[pathlib.Path]:
    """Yields a directory for activations, or one that is removed at the end."""
    if keep:
        yield directory
        return
    once = directory.with_name(f"{directory.name}-once")
    shutil.rmtree(once, ignore_errors=True)  # A killed process has left it.
    try:
        yield once
    finally:
        shutil.rmtree(once, ignore_errors=True)


def encoder_digest(encoder: keras.Model) -> str:
    """Returns a digest of the encoder's layers and weights."""
    digest = hashlib.sha256(encoder.to_json().encode())
    for weight in encoder.weights:
        digest.update(np.ascontiguousarray(weight.numpy()).tobytes())
    return digest.hexdigest()[:16]


def data_digest(source: ImageSource) -> str:
    """Returns a digest of the images, ids and labels."""
    digest = hashlib.sha256()
    examples = source.examples(None).batch(BATCH_SIZE)
    with progress.tracking("reading images", source.num_readable) as advance:
        for batch in examples.as_numpy_iterator():
            for name in ("instance_id", "label"):
                digest.update(batch[name].tobytes())
            for image in batch["image"]:
                content = image if isinstance(image, bytes) else image.tobytes()
                digest.update(len(content).to_bytes(8, "little") + content)
            advance(len(batch["image"]))
    return digest.hexdigest()[:16]


def _is_whole(file: pathlib.Path) -> bool:
    if not file.exists():
        return False
    try:
        checksums.digest(file, "It is recomputed.")
    except DamagedFileError as error:
        print(f"warning: {error}", file=sys.stderr)
        return False
    return True


def _file(place: pathlib.Path, name: str) -> pathlib.Path:
    return place / f"{name}.npy"


def _write(
    model: keras.Model,
    dataset: tf.data.Dataset,
    size: int,
    files: Sequence[pathlib.Path],
) -> None:
    sizes = [output.shape[-1] for output in model.outputs]
    needed = size * sum(sizes) * np.dtype(_DTYPE).itemsize
    free = shutil.disk_usage(files[0].parent).free
    if needed > free:
        raise StorageError(
            f"The layers' activations need {needed / 2**30:.1f} GiB in "
            f"{files[0].parent}, where {free / 2**30:.1f} GiB are free. Name "
            "fewer layers (--linear_layers), or lower --linear_features."
        )
    encode = inference(on_devices(model))
    largest = np.finfo(_DTYPE).max
    with contextlib.ExitStack() as stack:
        maps = [
            np.lib.format.open_memmap(
                stack.enter_context(checksums.replacing(file)),
                "w+",
                _DTYPE,
                (size, width),
            )
            for file, width in zip(files, sizes, strict=True)
        ]
        advance = stack.enter_context(
            progress.tracking("computing activations", size)
        )
        start = 0
        for images, _, labels in dataset:
            is_labeled = labels.numpy() >= 0
            stop = start + int(np.count_nonzero(is_labeled))
            outputs = tf.nest.flatten(encode(images))
            for column, output in zip(maps, outputs, strict=True):
                values = output.numpy()[is_labeled]
                column[start:stop] = np.clip(values, -largest, largest)
            advance(stop - start)
            start = stop
        for column in maps:
            column.flush()
