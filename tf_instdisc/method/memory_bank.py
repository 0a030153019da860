"""The memory bank: one embedding for each image, and the normalizer Z.

Both are non-trainable weights, so they are saved together with the model.
"""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from tf_instdisc import random_streams
from tf_instdisc.config import MethodConfig
from tf_instdisc.errors import NonFiniteError
from tf_instdisc.keras_internals import add_state, tf_variable
from tf_instdisc.method import formulas, replicas, streamed_softmax
from tf_instdisc.method.instances import Instances, last_of_same_id

_PART = 65_536  # Rows drawn at once, so that a large bank is not held twice.


class MemoryBank(keras.layers.Layer):
    """Rows v_1 .. v_n on the unit sphere, and log Z.

    Args:
        num_instances: Number of rows, at least 2.
        embedding_dim: Length of a row, at least 1.
        momentum: Weight of the old row in its update, in [0, 1).
        normalizer_momentum: The same for Z; 1 keeps that of the first batch.
        seed: Seed of the random rows.
        dtype: Type of log Z, of the output of `lookup`, and of the arithmetic.
        rows_dtype: Type of the stored rows; `dtype` by default.
        placement: `"host"`, one copy; otherwise each replica has a copy.
        absent_ids: Ids without an image; the losses ignore their rows.

    Attributes:
        rows: `[num_instances, embedding_dim]`, of unit length from the start.
            If they are sharded, only `rows.numpy()` and `lookup` may be used.
        log_normalizer: Scalar, log Z; NaN until the first estimate.
        instances: The ids that take part in training.
    """

    def __init__(
        self,
        num_instances: int,
        embedding_dim: int,
        momentum: float = MethodConfig.bank_momentum,
        normalizer_momentum: float = MethodConfig.normalizer_momentum,
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
        self.placement = placement

        shape = num_instances, embedding_dim
        self._rows = self._create_rows(shape, rows_dtype or dtype)
        for part, first in enumerate(range(0, num_instances, _PART)):
            ids = np.arange(first, min(first + _PART, num_instances))
            shape = len(ids), embedding_dim
            rows = random_streams.bank_rows(seed, part, shape, dtype)
            self.fill(ids, rows)
        self._log_z = add_state(self, "log_normalizer", [], math.nan, dtype)
        self.built = True

    def _create_rows(
        self, shape: tuple[int, int], dtype: str
    ) -> keras.Variable:
        return replicas.create_variable(
            lambda: add_state(self, "rows", [*shape], 0.0, dtype),
            self.placement,
        )

    @property
    def rows(self) -> tf.Variable:
        return tf_variable(self._rows)

    @property
    def log_normalizer(self) -> tf.Variable:
        return tf_variable(self._log_z)

    def lookup(self, ids: Tensor) -> Tensor:
        """Returns the rows of the given ids, `[..., embedding_dim]`."""
        return tf.cast(replicas.read_rows(self.rows, ids), self.dtype)

    def log_sum_exp(self, v: Tensor, temperature: float) -> Tensor:
        """Returns log Σ_j exp(v·v_j / τ) over all instances, `[batch]`."""
        return streamed_softmax.log_sum_exp(
            v,
            lambda positions: self.lookup(self.instances.ids_at(positions)),
            self.instances.count,
            temperature,
        )

    def negative_logits(
        self, v: Tensor, ids: Tensor, temperature: float
    ) -> Tensor:
        """Returns v·v_j / τ of each v and its negatives, `[batch, m]`.

        Args:
            v: float `[batch, embedding_dim]`, of this replica.
            ids: int `[m]`, or `[global_batch, m]` if each example has its
                own; the same on every replica.
            temperature: τ.
        """
        own = ids if ids.shape.rank == 1 else replicas.own_part(ids)
        return formulas.logits(v, self.lookup(own), temperature)

    def fill(self, ids: np.ndarray, embeddings: np.ndarray) -> None:
        """Sets the rows of distinct ids, in the scope of the strategy.

        Raises:
            NonFiniteError: If an embedding is not finite; no row is set.
        """
        if not np.isfinite(embeddings).all():
            raise NonFiniteError(
                "Rows of the memory bank must be finite. Received: NaN or inf "
                f"for ids among {ids[0]} .. {ids[-1]}. Try --precision=float32."
            )
        self._set_rows(ids, tf.cast(embeddings, self._rows.dtype))

    def _set_rows(self, ids: np.ndarray, new: Tensor) -> None:
        strategy = tf.distribute.get_strategy()
        replicas.update_copies(strategy, self.rows, _scatter, (ids, new))

    def gather_to_host(self) -> None:
        """Copies rows that are divided among several hosts to each of them.

        All hosts must call it. Until `discard_host_copy`, reading requires no
        communication.
        """

    def discard_host_copy(self) -> None:
        """Discards that copy. Call it before training changes the rows."""

    def update(self, ids: Tensor, embeddings: Tensor) -> None:
        """Moves rows `[batch]` toward embeddings `[batch, embedding_dim]`.

        The new row is momentum * old + (1 - momentum) * v, renormalized. If
        an id occurs more than once in the global batch, its last embedding
        is used. A row whose new value is not finite is left unchanged.
        """
        ids = replicas.gather_over_replicas(ids)
        v = replicas.gather_over_replicas(embeddings)
        v = tf.cast(v, self.compute_dtype)
        replicas.update_on_all_replicas(self.rows, self._move, (ids, v))

    def _move(self, rows: tf.Variable, ids: Tensor, embeddings: Tensor) -> None:
        old = tf.cast(replicas.read_rows(rows, ids), embeddings.dtype)
        v = tf.gather(embeddings, last_of_same_id(ids))
        new = formulas.moved_rows(old, v, self.momentum)
        _scatter(rows, ids, tf.cast(new, rows.dtype))

    def update_log_z(self, estimate: Tensor, training: bool) -> Tensor:
        """Returns a step's log Z from its estimate; training stores it."""
        momentum = self.normalizer_momentum if training else 1.0
        old = self.log_normalizer.value()
        new = formulas.moving_average(old, estimate, momentum)
        if training:
            self.log_normalizer.assign(new)
        return new


def _scatter(rows: tf.Variable, ids: Tensor, new: Tensor) -> None:
    # Returns nothing: a strategy would copy the rows that are returned.
    rows.scatter_update(tf.IndexedSlices(new, ids))
