"""The memory bank: one embedding for each image, and the normalizer Z.

Both are weights that no gradient reaches, so that whatever in Keras saves,
copies or restores weights takes them along.
"""

import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tf_instdisc.errors import NonFiniteError
from tf_instdisc.method import replicas

_PART = 65_536  # rows that are filled at once


class MemoryBank(keras.layers.Layer):
    """Rows v_1 .. v_n on the unit sphere.

    Args:
        num_instances: n, at least 2.
        embedding_dim: Length of a row, at least 1.
        momentum: Share of the old row in the new one, in [0, 1); 0.5 in the
            authors' code.
        normalizer: `"ema"`, or `"first_batch"`: frozen, as in the authors'
            code.
        normalizer_momentum: Share of the old Z in the moving average, in
            [0, 1).
        seed: Seeds the random rows.
        dtype: Of log Z, of what `lookup` returns, and of the arithmetic.
        rows_dtype: Of the rows as they are kept; `dtype` by default.
        placement: `"device"`, a copy on each replica, or `"host"`, one copy
            in this host's memory.
        absent_ids: Ids without an image; their rows take no part in losses.

    Attributes:
        rows: `[num_instances, embedding_dim]`, of unit length from the start.
        log_normalizer: Scalar, log Z; NaN until the first estimate.
        present_ids: int64, ids that take part, rising; None if all do.
        num_present: Their number.
    """

    def __init__(
        self,
        num_instances: int,
        embedding_dim: int,
        momentum: float = 0.5,
        normalizer: str = "ema",
        normalizer_momentum: float = 0.99,
        seed: int = 0,
        dtype: str = "float32",
        rows_dtype: str | None = None,
        placement: str = "device",
        absent_ids: Sequence[int] = (),
    ):
        super().__init__(name="memory_bank", dtype=dtype, trainable=False)
        self.num_instances = num_instances
        self.momentum = momentum
        self.normalizer = normalizer
        self.normalizer_momentum = normalizer_momentum
        self.present_ids = None
        self.num_present = num_instances
        if len(absent_ids):
            present = np.setdiff1d(np.arange(num_instances), absent_ids)
            self.present_ids = tf.constant(present, tf.int64)
            self.num_present = len(present)

        def create_rows():
            return self._add_state(
                "rows", [num_instances, embedding_dim], 0.0, rows_dtype or dtype
            )

        self._rows = (
            replicas.on_host(create_rows)
            if placement == "host"
            else create_rows()
        )
        # In parts, as a large bank fits into memory but once.
        for part, first in enumerate(range(0, num_instances, _PART)):
            ids = np.arange(first, min(first + _PART, num_instances))
            rows = tf.random.stateless_normal(
                [len(ids), embedding_dim], seed=[seed, part], dtype=dtype
            )
            self.fill(ids, tf.math.l2_normalize(rows, axis=-1))
        self._log_normalizer = self._add_state(
            "log_normalizer", [], math.nan, dtype
        )
        self.built = True

    def _add_state(self, name, shape, value, dtype):
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
        return self._log_normalizer.value

    def lookup(self, instance_ids: tf.Tensor) -> tf.Tensor:
        """Rows of the given ids, `[..., embedding_dim]`."""
        return tf.cast(tf.gather(self.rows, instance_ids), self.dtype)

    def ids_at(self, positions: tf.Tensor) -> tf.Tensor:
        """Ids by their positions, from 0 on, among those that take part."""
        if self.present_ids is None:
            return positions
        return tf.gather(self.present_ids, positions)

    def lookup_present(self, positions: tf.Tensor) -> tf.Tensor:
        """Rows by the positions of their ids among those that take part."""
        return self.lookup(self.ids_at(positions))

    def all_rows(self) -> tf.Tensor:
        """A copy of all rows, `[num_instances, embedding_dim]`."""
        return tf.cast(self.rows.value(), self.dtype)

    def fill(self, instance_ids: np.ndarray, embeddings: np.ndarray) -> None:
        """Sets rows, outside of training and in the strategy's scope.

        Args:
            instance_ids: int `[batch]`, each once.
            embeddings: `[batch, embedding_dim]`, of unit length.

        Raises:
            NonFiniteError: If an embedding is not finite; no row is set.
        """
        if not bool(tf.reduce_all(tf.math.is_finite(embeddings))):
            raise NonFiniteError(
                "Rows of the memory bank must be finite. Received: embeddings "
                f"that are not, for ids among {instance_ids[0]} .. "
                f"{instance_ids[-1]}. Try --precision=float32."
            )
        new = tf.IndexedSlices(
            tf.cast(embeddings, self.rows.dtype),
            tf.cast(instance_ids, tf.int64),
        )
        replicas.update_outside_of_steps(
            self.rows, lambda rows: rows.scatter_update(new), ()
        )

    def update(
        self,
        instance_ids: tf.Tensor,
        embeddings: tf.Tensor,
        valid: tf.Tensor,
    ) -> None:
        """Moves the rows of a step towards its embeddings, on every replica.

        The new row is momentum * old + (1 - momentum) * v, renormalised. Of
        an id that stands more than once in the global batch, the last valid
        embedding is taken.

        Args:
            instance_ids: int64 `[batch]`.
            embeddings: `[batch, embedding_dim]`, of unit length.
            valid: bool `[batch]`; rows of other examples stay as they are,
                and so do those whose embedding is not finite.
        """
        is_finite = tf.reduce_all(tf.math.is_finite(embeddings), axis=-1)
        instance_ids, embeddings, valid = replicas.gather_over_replicas(
            instance_ids, embeddings, tf.cast(valid & is_finite, tf.int32)
        )
        instance_ids = tf.boolean_mask(instance_ids, valid > 0)
        embeddings = tf.boolean_mask(embeddings, valid > 0)
        replicas.update_on_all_replicas(
            self.rows, self._write, (instance_ids, embeddings)
        )

    def _write(self, rows, instance_ids, embeddings):
        ids, positions = tf.unique(instance_ids)
        last = tf.math.unsorted_segment_max(
            tf.range(tf.size(positions)), positions, tf.size(ids)
        )
        new = tf.gather(embeddings, last)
        old = tf.cast(tf.gather(rows, ids), new.dtype)
        mixed = self.momentum * old + (1.0 - self.momentum) * new
        mixed = tf.cast(tf.math.l2_normalize(mixed, axis=-1), rows.dtype)
        return rows.scatter_update(tf.IndexedSlices(mixed, ids))

    def update_normalizer(self, estimate: tf.Tensor) -> tf.Tensor:
        """Takes this step's estimate of log Z into account.

        Args:
            estimate: Scalar, log Z of the global batch, the same on every
                replica.

        Returns:
            Scalar, the log Z to use in this step.
        """
        old = self.log_normalizer.value()
        if self.normalizer == "ema":
            # In log space: at a temperature of 0.01, Z is beyond float32.
            decay = self.normalizer_momentum
            log_decay = math.log(decay) if decay > 0 else -math.inf
            moved = tf.reduce_logsumexp(
                tf.stack([old + log_decay, estimate + math.log(1 - decay)])
            )
        else:
            moved = old
        new = tf.where(tf.math.is_finite(old), moved, estimate)
        # A batch of unreadable images has no estimate.
        new = tf.where(tf.math.is_finite(estimate), new, old)
        self.log_normalizer.assign(new)
        return self._usable(new)

    def normalizer_for_evaluation(self, estimate: tf.Tensor) -> tf.Tensor:
        """The log Z of training; before the first step, an estimate.

        Args:
            estimate: As `update_normalizer` takes it; it is not kept.

        Returns:
            Scalar, the log Z to use.
        """
        log_z = self.log_normalizer.value()
        return self._usable(tf.where(tf.math.is_finite(log_z), log_z, estimate))

    def _usable(self, log_normalizer):
        neutral = tf.cast(math.log(self.num_instances), log_normalizer.dtype)
        is_known = tf.math.is_finite(log_normalizer)
        return tf.where(is_known, log_normalizer, neutral)
