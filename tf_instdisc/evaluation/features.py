"""Computes the activations of an encoder's layers, each image once."""

import contextlib
import functools
import math
import pathlib
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tf_instdisc import progress
from tf_instdisc.config import DataConfig
from tf_instdisc.config.encoder import LAYERS
from tf_instdisc.data import pipeline
from tf_instdisc.data.sources import ImageSource, known_labels
from tf_instdisc.errors import StorageError, UsageError
from tf_instdisc.runs.embedding import (
    BATCH_SIZE,
    Embedded,
    inference,
    on_devices,
)
from tf_instdisc.text import listed

_DTYPE = np.float16


class Layer(NamedTuple):
    """A layer as it is measured.

    Attributes:
        name: Its name; `embedding` is the encoder's output.
        num_features: Approximate number of values to which it is pooled; 0
            for the embedding, which is not pooled.
    """

    name: str
    num_features: int


EMBEDDING = Layer("embedding", 0)


def layer(name: str, num_features: int) -> Layer:
    """Returns a layer that is pooled unless it is the embedding."""
    return EMBEDDING if name == EMBEDDING.name else Layer(name, num_features)


def available_layers(encoder: keras.Model) -> tuple[str, ...]:
    """Returns which of `conv1` .. `conv5` and `embedding` exist."""
    names = {layer.name for layer in encoder.layers}
    return tuple(
        name for name in LAYERS if name in names or name == EMBEDDING.name
    )


def require_layers(
    encoder: keras.Model, names: Sequence[str], field: str, flag: str
) -> None:
    """Raises UsageError unless an encoder has all layers that a field names."""
    known = available_layers(encoder)
    for name in names:
        if name not in known:
            raise UsageError(
                f"`{field}` must name layers of the encoder: {listed(known)}. "
                f"Received: {field}={name!r}. Change --{flag}."
            )


class Activations:
    """Activations of an encoder for the images of an evaluation.

    Protocols announce their layers when they are checked. The first one that
    reads a layer has all of them computed, so that each image is decoded and
    encoded once for all protocols.

    Args:
        build: Loads or builds the encoder.
        sources: The training and the test images.
        directory: Where the activations of feature maps are stored; created
            if it is missing.
        crop_fraction: As in `evaluation_dataset`.
        embedded: Returns the embeddings of training images that are already
            known.
    """

    def __init__(
        self,
        build: Callable[[], keras.Model],
        sources: tuple[ImageSource, ImageSource],
        directory: pathlib.Path,
        crop_fraction: float,
        embedded: Callable[[], Mapping[Layer, Embedded]] = dict,
    ):
        self._build = functools.cache(build)
        self._sources = sources
        self._directory = directory
        self._crop_fraction = crop_fraction
        self._embedded = embedded
        self._wanted: set[Layer] = set()
        self._found: dict[Layer, tuple[Embedded, Embedded]] = {}

    def announce(self, layers: Collection[Layer]) -> None:
        """Requests layers, which are computed together when one is read."""
        self._wanted.update(layers)

    def of(self, wanted: Layer) -> tuple[Embedded, Embedded]:
        """Returns a layer of the labeled training and test images.

        If there is not enough disk space for all announced layers, only this
        one is computed.

        Raises:
            StorageError: If there is not enough disk space.
        """
        self._wanted.add(wanted)
        if wanted not in self._found:
            missing = sorted(self._wanted - self._found.keys())
            try:
                self._compute(missing)
            except StorageError:
                if missing == [wanted]:
                    raise
                self._compute([wanted])
        return self._found[wanted]

    def _compute(self, missing: Sequence[Layer]) -> None:
        encoder = self._build()
        train, test = self._sources
        known = self._embedded() if EMBEDDING in missing else {}
        parts: list[dict[Layer, Embedded]] = []
        for source, given in ((train, known), (test, {})):
            extracted = extract(
                encoder,
                source,
                [one for one in missing if one not in given],
                self._directory / str(len(parts)),
                self._crop_fraction,
            )
            parts.append({**given, **extracted})
        self._found.update(
            {one: (parts[0][one], parts[1][one]) for one in missing}
        )


def feature_model(encoder: keras.Model, wanted: Sequence[Layer]) -> keras.Model:
    """Builds a model that maps images to pooled, flattened activations.

    Feature maps are average-pooled to a square grid whose side is the square
    root of `num_features` / channels, rounded to the nearest integer: the
    paper's linear classifiers use about 9,000 values of each layer (Zhang et
    al. 2017, arXiv 1611.09842). Smaller maps are left unchanged.

    Args:
        encoder: A functional model.
        wanted: The layers, in the order of the outputs.

    Returns:
        A model with one output for each layer, `[batch, num_features]`.
    """
    outputs = []
    for name, num_features in wanted:
        is_output = name == EMBEDDING.name
        own = f"features_{name}_{num_features}"  # Not a name in the encoder.
        x = encoder.outputs[0] if is_output else encoder.get_layer(name).output
        if len(x.shape) == 4:
            side = max(1, round(math.sqrt(num_features / x.shape[-1])))
            height, width = (min(side, size) for size in x.shape[1:3])
            if (height, width) != tuple(x.shape[1:3]):
                x = layers.AdaptiveAveragePooling2D(
                    (height, width), name=f"{own}_pool"
                )(x)
        elif len(x.shape) == 3:
            length = max(1, round(num_features / x.shape[-1]))
            if length < x.shape[1]:
                x = layers.AdaptiveAveragePooling1D(length, name=f"{own}_pool")(
                    x
                )
        outputs.append(layers.Flatten(dtype="float32", name=f"{own}_flat")(x))
    return keras.Model(encoder.inputs[0], outputs)


def extract(
    encoder: keras.Model,
    source: ImageSource,
    wanted: Sequence[Layer],
    directory: pathlib.Path,
    crop_fraction: float = DataConfig.crop_fraction,
) -> dict[Layer, Embedded]:
    """Computes activations of all labeled images.

    The embeddings are held in memory. The activations of feature maps are
    written to disk, with one batch in memory at a time.

    Args:
        encoder: A functional model.
        source: The images, of which those without labels are left out.
        wanted: The layers; if there are none, no image is read.
        directory: Where a file for each feature map is written.
        crop_fraction: As in `evaluation_dataset`.

    Returns:
        For each layer, values of shape `[size, num_features]`: float32
        embeddings, or float16 and memory-mapped.

    Raises:
        StorageError: If there is not enough disk space.
    """
    if not wanted:
        return {}
    labels = known_labels(source)
    model = feature_model(encoder, wanted)
    columns = _columns(model, wanted, len(labels), directory)
    encode = inference(on_devices(model))
    largest = np.finfo(_DTYPE).max
    ids = np.empty([len(labels)], np.int64)
    start = 0
    dataset = pipeline.evaluation_dataset(
        source, int(encoder.input_shape[1]), BATCH_SIZE, crop_fraction
    )
    with progress.tracking("encoding images", source.num_readable) as advance:
        for images, batch_ids, batch_labels in dataset:
            is_labeled = batch_labels.numpy() >= 0
            stop = start + int(np.count_nonzero(is_labeled))
            ids[start:stop] = batch_ids.numpy()[is_labeled]
            outputs = tf.nest.flatten(encode(images))
            for column, output in zip(columns, outputs, strict=True):
                values = output.numpy()[is_labeled]
                if column.dtype == _DTYPE:
                    values = np.clip(values, -largest, largest)
                column[start:stop] = values
            advance(len(is_labeled))
            start = stop
    return {
        one: Embedded(column, ids, labels)
        for one, column in zip(wanted, columns, strict=True)
    }


def _columns(
    model: keras.Model,
    wanted: Sequence[Layer],
    size: int,
    directory: pathlib.Path,
) -> list[np.ndarray]:
    """Returns an array for each output of a model, on disk if it is large."""
    shapes = [(size, output.shape[-1]) for output in model.outputs]
    needed = sum(
        math.prod(shape) * np.dtype(_DTYPE).itemsize
        for one, shape in zip(wanted, shapes, strict=True)
        if one != EMBEDDING
    )
    if needed:
        directory.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(directory).free
        if needed > free:
            raise StorageError(
                f"The layers' activations need {needed / 2**30:.1f} GiB in "
                f"{directory}, where {free / 2**30:.1f} GiB are free. Name "
                "fewer layers (--linear_layers), or lower --linear_features."
            )
    return [
        np.empty(shape, np.float32)
        if one == EMBEDDING
        else np.lib.format.open_memmap(
            directory / f"{one.name}-{one.num_features}.npy",
            "w+",
            _DTYPE,
            shape,
        )
        for one, shape in zip(wanted, shapes, strict=True)
    ]


@contextlib.contextmanager
def removing(directory: pathlib.Path) -> Iterator[None]:
    """Removes a directory before the block, and at its end."""
    shutil.rmtree(directory, ignore_errors=True)  # A killed process left it.
    try:
        yield
    finally:
        shutil.rmtree(directory, ignore_errors=True)
