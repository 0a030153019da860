"""Everything the package uses from inside Keras 3.15, with the reasons.

None of it is part of Keras' public interface, so setup.cfg allows no other
minor version. When you try a new version, begin with these functions.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras

if TYPE_CHECKING:  # Encoders are built on any backend, without TensorFlow.
    import tensorflow as tf


def is_functional(model: keras.Model) -> bool:
    """Returns whether a model is a graph of layers.

    `keras.Model(inputs, outputs)` is public; the class of what it returns
    (3.15: `keras.src.models.Functional`) has no public name.
    """
    return isinstance(model, keras.src.models.Functional)


def all_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns a model and all layers in it, also those of other layers.

    `model.layers` has the outermost only; `_flatten_layers` (3.15) has all.
    """
    return list(model._flatten_layers())


def tf_variable(weight: keras.Variable) -> "tf.Variable":
    """Returns the TensorFlow variable behind a weight.

    Keras documents `value` as a tensor. With the TensorFlow backend it is the
    variable itself (3.15); under a strategy, it is the distributed variable,
    which can be scattered into, updated on each replica and checkpointed.
    """
    return weight.value


def add_state(
    layer: keras.layers.Layer,
    name: str,
    shape: list[int],
    value: float,
    dtype: str,
) -> keras.Variable:
    """Adds a non-trainable weight that is equal on all replicas.

    `aggregation` is public but its values are not: with this one (3.15),
    TensorFlow keeps a copy on each replica and saves the first.
    """
    return layer.add_weight(
        shape=shape,
        initializer=keras.initializers.Constant(value),
        dtype=dtype,
        trainable=False,
        autocast=False,
        aggregation="only_first_replica",
        name=name,
    )


def clip_gradients(
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence["tf.Tensor | None"],
) -> list["tf.Tensor | None"]:
    """Clips gradients that are summed over replicas.

    The optimizer (3.15) clips the part of each replica, and then sums the
    parts. Their sum can have more than the allowed length. If it is clipped
    first, the parts are too short to be clipped again.

    Args:
        optimizer: The optimizer that will apply the gradients.
        gradients: As `optimizer.scale_loss` scales them; None is kept.
    """
    scale = 1.0
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        scale = keras.ops.convert_to_tensor(optimizer.dynamic_scale)
        optimizer = optimizer.inner_optimizer
    ops = keras.ops  # They accept float16 times a float32 scale.
    known = [gradient for gradient in gradients if gradient is not None]
    clipped = iter(
        optimizer._clip_gradients([ops.divide(g, scale) for g in known])
    )
    # The optimizer halves the scale if it finds an infinite gradient.
    return [
        g
        if g is None
        else ops.where(ops.isfinite(g), ops.multiply(next(clipped), scale), g)
        for g in gradients
    ]


class LayersOf(keras.layers.Layer):
    """The layers of a functional model, with other functions for some.

    `Functional.call` (3.15) checks the size of the images, and then calls
    `_run_through_graph` with the module's function `operation_fn`. Here they
    may be of any size that the layers accept.

    Args:
        model: A functional model with one input and one output. Models within
            it are called as they are.
    """

    def __init__(self, model: keras.Model):
        super().__init__(autocast=False)
        self.model = model
        self.built = True

    def call(
        self,
        images: "tf.Tensor",
        replaced: Callable[[keras.layers.Layer, "tf.Tensor"], Any],
        training: bool | None = None,
    ) -> "tf.Tensor":
        """Calls `replaced(layer, inputs)`, or the layer if that is None.

        A layer with several or with masked inputs is not replaced.
        """
        functional = keras.src.models.functional

        def call_of(layer: keras.layers.Layer) -> Callable[..., Any]:
            call = functional.operation_fn(layer, training=training)

            def call_or_replace(*args: Any, **kwargs: Any) -> Any:
                masks = [getattr(x, "_keras_mask", None) for x in args]
                outputs = None
                if masks == [None] and kwargs.get("mask") is None:
                    outputs = replaced(layer, args[0])
                return call(*args, **kwargs) if outputs is None else outputs

            return call_or_replace

        inputs = self.model._standardize_inputs(images)
        outputs = self.model._run_through_graph(inputs, call_of)
        return keras.tree.flatten(outputs)[0]


class VariableBackedWeight(keras.Variable):
    """A non-trainable weight whose shape is not that of its variable.

    Keras (3.15) creates the variable behind a weight in
    `_initialize_with_initializer`. A subclass overrides `numpy`, `__array__`
    and `assign`, through which Keras reads and writes weights, and so does
    `tf.train.Checkpoint`.

    Args:
        stored: The variable behind the weight.
        shape: The shape of the weight.
    """

    def __init__(
        self, stored: "tf.Variable", shape: tuple[int, ...], name: str
    ):
        self._stored = stored
        super().__init__(
            keras.initializers.Zeros(),
            shape=shape,
            dtype=stored.dtype.name,
            trainable=False,
            autocast=False,
            name=name,
        )

    def _initialize_with_initializer(self, initializer: Any) -> None:
        del initializer
        self._initialize(self._stored)

    def _serialize_to_tensors(self) -> dict[str, Any]:
        return {"VARIABLE_VALUE": keras.ops.convert_to_tensor(self.numpy())}

    def _restore_from_tensors(self, restored: dict[str, Any]) -> Any:
        return self.assign(restored["VARIABLE_VALUE"])


class CustomLoopModel(keras.Model):
    """A model whose `fit` and `evaluate` run functions of its own.

    Keras' functions (3.15) average over replicas values that are the same on
    each of them, and fail on more than one host. Before the first step, Keras
    would build the model from a batch averaged over replicas, including its
    instance ids. `fit` and `evaluate` call `make_train_function`,
    `make_test_function` and `_maybe_symbolic_build` for this.
    """

    train_function: Callable | None
    test_function: Callable | None

    def build_training_state(self) -> None:
        """Creates the state that training keeps beside the model."""
        raise NotImplementedError

    def new_train_function(self) -> Callable:
        """Returns a function that trains on an iterator and returns logs."""
        raise NotImplementedError

    def new_test_function(self) -> Callable:
        """Returns a function that evaluates an iterator and returns logs."""
        raise NotImplementedError

    def make_train_function(self, force: bool = False) -> None:
        if self.train_function is None or force:
            self.train_function = self.new_train_function()

    def make_test_function(self, force: bool = False) -> None:
        if self.test_function is None or force:
            self.test_function = self.new_test_function()

    def _maybe_symbolic_build(
        self, iterator: Any = None, data_batch: Any = None
    ) -> None:
        del iterator, data_batch
        self.build_training_state()
