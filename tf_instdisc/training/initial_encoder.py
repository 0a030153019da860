"""The encoder with which a run begins: new, trained before, or from Keras."""

import contextlib
import importlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterator

import keras
import numpy as np
from keras import layers

from tf_instdisc.config import EncoderConfig, RunConfig
from tf_instdisc.config.encoder import channel_values
from tf_instdisc.errors import UsageError
from tf_instdisc.method.encoders import (
    build_encoder,
    custom_backbone,
    encoder_of,
)
from tf_instdisc.portable import make_portable
from tf_instdisc.runs import opening, shipped
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.runs.load import load_encoder
from tf_instdisc.runs.policy import with_policy

PREPROCESS = "preprocess"
"""Name of the layer that holds the preprocessing of `keras.applications`."""


def initial_encoder(
    config: RunConfig, weights: str | None = "imagenet"
) -> keras.Model:
    """Builds the encoder of a run, with the weights of `init_encoder`.

    Args:
        weights: Those of a network of `keras.applications`; None for random
            ones, which need no download.

    Returns:
        An encoder for images of the run's size, of the current dtype policy.

    Raises:
        UsageError: If `init_encoder` cannot be found or used.
    """
    named = trained_before(config)
    if named is None:
        return encoder_of(config)
    size = config.data.image_size
    named = shipped.located(named, "init_encoder")
    if os.path.exists(named):
        policy = keras.config.dtype_policy().name
        model = with_policy(_load(named), policy)
        if {"projection", "embedding"} <= {x.name for x in model.layers}:
            _require_no_normalization(config.encoder)
            if model.output_shape[-1] != config.encoder.embedding_dim:
                _require_training(config)
            return _resized(model, size, config.encoder.embedding_dim)
        _require_training(config)
        # The encoder of a run takes RGB in 0..255.
        file = pathlib.Path(named)
        is_normalized = (
            file.is_dir() or RunDirectory(file.parent).settings.exists()
        )
    else:
        function = _function(named)
        _require_training(config)
        model, is_normalized = _call(function, named, size, weights)
    if is_normalized:
        _require_no_normalization(config.encoder)
        return build_encoder(
            model,
            image_size=size,
            embedding_dim=config.encoder.embedding_dim,
            normalize=False,
        )
    return build_encoder(
        model,
        image_size=size,
        embedding_dim=config.encoder.embedding_dim,
        mean=config.encoder.mean,
        std=config.encoder.std,
    )


def trained_before(config: RunConfig) -> str | None:
    """Returns what `initial_encoder` begins with; None for new weights."""
    named = config.encoder.init_encoder
    if named is None and config.training.init_run:
        earlier = opening.load(config.training.init_run)
        if earlier.read_config().encoder.init_encoder:
            return str(earlier.path)  # Its settings do not name its network.
    return named


def require_train_size(encoder: keras.Model, config: RunConfig) -> None:
    """Raises UsageError unless an encoder also takes the training crops.

    The settings of a new network have been checked already.
    """
    size, train_size = config.data.image_size, config.data.train_image_size
    if train_size in (None, size) or trained_before(config) is None:
        return
    crops = keras.Input((train_size, train_size, 3))
    try:
        custom_backbone.apply(encoder, crops, crops)
    except ValueError as error:
        raise UsageError(
            "`train_image_size` must equal `image_size` for a network whose "
            f"weights fit only one size. Received: train_image_size="
            f"{train_size}, image_size={size}, and {encoder.name}. Leave it "
            "out."
        ) from error


# === Encoders of this package ===


def _resized(
    encoder: keras.Model, image_size: int, embedding_dim: int
) -> keras.Model:
    """Returns a copy for images and embeddings of other sizes."""
    inputs = keras.Input((image_size, image_size, 3), name="image")
    try:
        outputs = custom_backbone.apply(encoder, inputs, inputs)
    except ValueError as error:
        raise UsageError(
            "`init_encoder` must fit images of this size. Received: "
            f"image_size={image_size}, and an encoder for "
            f"{encoder.input_shape[1]} pixels whose weights fit no other "
            f"size. Use image_size={encoder.input_shape[1]}."
        ) from error
    copy = keras.Model(inputs, outputs, name=encoder.name)
    if outputs.shape[-1] != embedding_dim:
        features = copy.get_layer("projection").input
        full = keras.config.dtype_policy().variable_dtype
        x = layers.Dense(embedding_dim, name="projection", dtype=full)(features)
        x = layers.UnitNormalization(name="embedding", dtype=full)(x)
        copy = keras.Model(inputs, x, name=encoder.name)
    return make_portable(copy)


def _require_training(config: RunConfig) -> None:
    if not config.optimizer.epochs:
        raise UsageError(
            "`epochs` must be at least 1 unless `init_encoder` has a trained "
            "projection of length `embedding_dim`. Received: epochs=0, "
            f"init_encoder={config.encoder.init_encoder}, "
            f"embedding_dim={config.encoder.embedding_dim}"
        )


def _require_no_normalization(settings: EncoderConfig) -> None:
    given_values, defaults = (
        [channel_values(name, getattr(of, name)) for name in ("mean", "std")]
        for of in (settings, EncoderConfig)
    )
    if given_values != defaults:
        raise UsageError(
            "`mean` and `std` cannot be combined with an `init_encoder` that "
            f"normalizes its input itself. Received: mean={settings.mean}, "
            f"std={settings.std}. Leave them out."
        )


def _load(path: str) -> keras.Model:
    if os.path.isfile(path) and not path.endswith(".keras"):
        raise UsageError(
            "`init_encoder` must be a run or a .keras file. Received: "
            f"init_encoder={path!r}"
        )
    return load_encoder(path)


# === Models of Keras and of other packages ===


def _function(named: str) -> Callable:
    """Returns a function by its dotted name, also from the current directory.

    An installed module takes precedence over one in the current directory.
    """
    module_name, _, name = named.rpartition(".")
    try:
        with _importing_from_here():
            function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UsageError(
            "`init_encoder` must be a run, an encoder.keras, or the name of a "
            "function that returns a Keras model, such as "
            f"keras.applications.ResNet50. Received: init_encoder={named!r}, "
            f"which does not exist ({error})"
        ) from None
    if not callable(function):
        raise UsageError(
            "`init_encoder` must name a function. Received: init_encoder="
            f"{named!r}, a {type(function).__name__}"
        )
    return function


@contextlib.contextmanager
def _importing_from_here() -> Iterator[None]:
    """Imports from the current directory, too, within the context."""
    # A console script has its own directory on the path instead.
    is_missing = "" not in sys.path
    if is_missing:
        sys.path.append("")
    try:
        yield
    finally:
        if is_missing:
            sys.path.remove("")


def _call(
    function: Callable, named: str, size: int, weights: str | None
) -> tuple[keras.Model, bool]:
    """Calls a function that returns a model.

    Args:
        function: One of `keras.applications`, or one without arguments.
        named: Its dotted name.
        size: Side of the images, in pixels.
        weights: As in `initial_encoder`.

    Returns:
        The model, and whether it takes RGB in 0..255.
    """
    if function.__module__.startswith("keras.src.applications"):
        try:
            model = function(
                include_top=False,
                weights=weights,
                input_shape=(size, size, 3),
            )
        except ValueError as error:  # Most networks need 32 or 75 pixels.
            raise UsageError(
                f"`image_size` must suit {named}. Received: image_size={size} "
                f"({error})"
            ) from None
        except Exception as error:  # Keras raises no narrower one.
            if "URL fetch failure" not in str(error):
                raise
            raise UsageError(
                f"The weights of `init_encoder` must be downloaded once. "
                f"Received: init_encoder={named!r} ({error})"
            ) from None
        module = sys.modules[function.__module__]
        return _preprocessed(model, module.preprocess_input), True
    model = function()
    if not isinstance(model, keras.Model):
        raise UsageError(
            "`init_encoder` must name a function that returns a Keras model. "
            f"Received: init_encoder={named!r}, which returned "
            f"{type(model).__name__}"
        )
    return model, False


def _preprocessed(
    model: keras.Model, preprocess_input: Callable[[np.ndarray], np.ndarray]
) -> keras.Model:
    """Puts a model's preprocessing, which is affine in RGB, in front of it."""
    probes = np.concatenate([np.zeros([1, 3]), np.eye(3)])[:, None, None]
    images = np.asarray(preprocess_input(probes.astype("float32")))
    offset, columns = images[0, 0, 0], images[1:, 0, 0] - images[0, 0, 0]
    inputs = keras.Input(model.input_shape[1:], name="image")
    x = inputs
    if not (np.allclose(columns, np.eye(3)) and np.allclose(offset, 0)):
        preprocess = layers.Conv2D(
            3,
            1,
            trainable=False,
            name=PREPROCESS,
            dtype=keras.config.dtype_policy().variable_dtype,
        )
        x = preprocess(inputs)
        preprocess.set_weights([columns[None, None], offset])
    return keras.Model(
        inputs, custom_backbone.apply(model, inputs, x), name=model.name
    )
