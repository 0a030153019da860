"""The memory bank: one embedding for each image, and the normalizer Z.

Both are weights that no gradient reaches, so that whatever in Keras saves,
copies or restores weights takes them along.
"""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tf_instdisc.errors import NonFiniteError
from tf_instdisc.method import normalizer, replicas
from tf_instdisc.method.instances import Instances

_PART = 65_536  # rows drawn at once: a large bank fits into memory but once


class MemoryBank(keras.layers.Layer):
    """Rows v_1 .. v_n on the unit sphere, and log Z.

    Args:
        num_instances: Number of rows, at least 2.
        embedding_dim: Length of a row, at least 1.
        momentum: Fraction of the old row in the new one, in [0, 1).
        normalizer_momentum: Fraction of the old Z in its moving average; 1
            keeps the Z of the first batch.
        seed: Seeds the random rows.
        dtype: Of log Z, of what `lookup` returns, and of the arithmetic.
        rows_dtype: Of the rows as they are kept; `dtype` by default.
        placement: `"device"`, a copy on each replica, or `"host"`, one copy
            in this host's memory.
        absent_ids: Ids without an image; their rows take no part in losses.

    Attributes:
        rows: `[num_instances, embedding_dim]`, of unit length from the start.
        log_normalizer: Scalar, log Z; NaN until the first estimate.
        instances: The ids that take part.
    """

    def __init__(
        self,
        num_instances: int,
        embedding_dim: int,
        momentum: float = 0.5,
        normalizer_momentum: float = 0.99,
        seed: int = 0,
        dtype: str = "float32",
        rows_dtype: str | None = None,
        placement: str = "device",
        absent_ids: Sequence[int] = (),
    ):
        super().__init__(name="memory_bank", dtype=dtype, trainable=False)
        self.instances = Instances(num_instances, absent_ids)
        self.momentum = momentum
        self.normalizer_momentum = normalizer_momentum

        def create_rows():
            shape = [num_instances, embedding_dim]
            return self._create("rows", shape, 0.0, rows_dtype or dtype)

        is_on_host = placement == "host"
        on_host = replicas.on_host
        self._rows = on_host(create_rows) if is_on_host else create_rows()
        for part, first in enumerate(range(0, num_instances, _PART)):
            ids = np.arange(first, min(first + _PART, num_instances))
            rows = tf.random.stateless_normal(
                [len(ids), embedding_dim], seed=[seed, part], dtype=dtype
            )
            self.fill(ids, tf.math.l2_normalize(rows, axis=-1))
        self._log_z = self._create("log_normalizer", [], float("nan"), dtype)
        self.built = True

    def _create(self, name, shape, value, dtype):
        return self.add_weight(
            shape=shape,
            initializer=keras.initializers.Constant(value),
            dtype=dtype,
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
            name=name,
        )

    @property
    def rows(self) -> tf.Variable:
        return self._rows.value

    @property
    def log_normalizer(self) -> tf.Variable:
        return self._log_z.value

    def lookup(self, ids: tf.Tensor) -> tf.Tensor:
        """Rows of the given ids, `[..., embedding_dim]`."""
        return tf.cast(tf.gather(self.rows, ids), self.dtype)

    def fill(self, ids: np.ndarray, embeddings: np.ndarray) -> None:
        """Sets the rows of different ids, in the strategy's scope.

        Raises:
            NonFiniteError: If an embedding is not finite; no row is set.
        """
        if not bool(tf.reduce_all(tf.math.is_finite(embeddings))):
            raise NonFiniteError(
                "Rows of the memory bank must be finite. Received: embeddings "
                f"that are not, for ids among {ids[0]} .. {ids[-1]}. Try "
                "--precision=float32."
            )
        new = tf.cast(embeddings, self.rows.dtype)
        replicas.update_outside_of_steps(self.rows, _scatter, (ids, new))

    def update(self, ids: tf.Tensor, embeddings: tf.Tensor) -> None:
        """Moves the rows of a step towards its embeddings, on every replica.

        The new row is momentum * old + (1 - momentum) * v, renormalized. Of
        an id that the global batch holds more than once, the last embedding
        counts. A row whose new value is not finite stays as it is.

        Args:
            ids: int64 `[batch]`.
            embeddings: `[batch, embedding_dim]`, of unit length.
        """
        batch = [replicas.gather_over_replicas(x) for x in (ids, embeddings)]
        replicas.update_on_all_replicas(self.rows, self._move, tuple(batch))

    def _move(self, rows, ids, embeddings):
        order = tf.argsort(ids, stable=True)
        behind = tf.searchsorted(tf.gather(ids, order), ids, side="right")
        last = tf.gather(order, behind - 1)  # [batch]: the last of the same id
        old = tf.cast(tf.gather(rows, ids), embeddings.dtype)
        new = tf.gather(embeddings, last)
        new = self.momentum * old + (1.0 - self.momentum) * new
        new = tf.math.l2_normalize(new, axis=-1)
        is_finite = tf.reduce_all(tf.math.is_finite(new), -1, keepdims=True)
        new = tf.where(is_finite, new, old)
        return _scatter(rows, ids, tf.cast(new, rows.dtype))

    def normalize(self, estimate: tf.Tensor, training: bool) -> tf.Tensor:
        """The log Z of a step, from its estimate; training moves Z."""
        new = normalizer.moving_average(
            self.log_normalizer.value(),
            estimate,
            self.normalizer_momentum if training else 1.0,
        )
        if training:
            self.log_normalizer.assign(new)
        return new


def _scatter(rows, ids, new):
    return rows.scatter_update(tf.IndexedSlices(new, ids))
