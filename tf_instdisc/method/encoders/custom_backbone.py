"""An arbitrary Keras model as the backbone."""

from collections.abc import Sequence
from typing import Any

import keras

from tf_instdisc.errors import UsageError
from tf_instdisc.keras_internals import is_functional

_OURS = ("image", "normalize", "pool", "projection", "embedding")


def require_usable(backbone: keras.Model, image_size: int) -> None:
    """Raises UsageError unless a model maps images to features."""
    is_sequential = isinstance(backbone, keras.Sequential)
    if not is_sequential and not is_functional(backbone):
        raise UsageError(
            "`backbone` must be a functional or Sequential model, so that its "
            "layers are accessible by name and its file loads anywhere. "
            f"Received: backbone={type(backbone).__name__}"
        )
    if not backbone.built:
        raise UsageError(
            "`backbone` must be built: begin it with keras.Input((size, size, "
            "3)). Received: a Sequential model without an input"
        )
    shapes = []
    for name, tensors in (
        ("input", backbone.inputs),
        ("output", backbone.outputs),
    ):
        if len(tensors) != 1:
            raise UsageError(
                f"`backbone` must have one {name}. Received: {len(tensors)}"
            )
        shapes.append(tuple(tensors[0].shape))
    taken, given = shapes
    if not fits_images(taken, image_size):
        raise UsageError(
            f"`backbone` must take images [batch, {image_size}, {image_size}, "
            f"3], or of any size. Received: a model of input {taken}. Build "
            "it for this size, or change `image_size`."
        )
    if len(given) not in (2, 4) or given[-1] is None:
        raise UsageError(
            "`backbone` must output a feature map [batch, height, width, "
            "channels] or a vector [batch, features]. Received: a model of "
            f"output {given}. Remove its head, as keras.applications does "
            "with include_top=False."
        )
    clashes = sorted(
        layer.name
        for layer in backbone.layers
        if layer.name in _OURS
        and not isinstance(layer, keras.layers.InputLayer)
    )
    if clashes:
        raise UsageError(
            f"`backbone` must leave the names {', '.join(_OURS)} to the "
            f"encoder. Received: layers with the names {', '.join(clashes)}"
        )


def fits_images(shape: Sequence[int | None], image_size: int) -> bool:
    """Returns whether a model's input takes RGB images of this size."""
    wanted = (None, image_size, image_size, 3)
    return len(shape) == 4 and all(
        found in (None, size) for found, size in zip(shape, wanted, strict=True)
    )


def apply(
    backbone: keras.Model,
    inputs: keras.KerasTensor,
    images: keras.KerasTensor,
) -> keras.KerasTensor:
    """Applies copies of a model's layers, with their names and weights.

    If the model were called as a whole, or with its own layers, the layers
    could not be accessed from the encoder's input.

    Args:
        backbone: A model that `require_usable` accepts.
        inputs: The encoder's input.
        images: float `[batch, size, size, 3]`, computed from it.
    """

    def call(
        layer: keras.layers.Layer, *args: Any, **kwargs: Any
    ) -> keras.KerasTensor:
        args, kwargs = keras.tree.map_structure(
            lambda x: images if x is inputs else x, (args, kwargs)
        )
        return layer(*args, **kwargs)

    # Unifies Sequential models and models whose inputs are in a list.
    functional = keras.Model(backbone.inputs[0], backbone.outputs[0])
    copy = keras.models.clone_model(
        functional, input_tensors=inputs, call_function=call
    )
    for layer in functional.layers:
        if layer.weights:
            copy.get_layer(layer.name).set_weights(layer.get_weights())
    return copy.outputs[0]
