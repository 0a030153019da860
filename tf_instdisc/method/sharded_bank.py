"""A memory bank that is divided among the replicas.

Each replica has n / replicas rows. Each replica contributes the rows that it
stores and zeros for all others; the sum over the replicas is complete.
The results equal those of a bank that is copied to every replica.
"""

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import Tensor

from tf_instdisc.keras_internals import VariableBackedWeight
from tf_instdisc.method import formulas, replicas, streamed_softmax
from tf_instdisc.method.memory_bank import MemoryBank

_BLOCK = 65_536  # Rows that are copied between devices and host at once.


def bank_type(placement: str) -> type[MemoryBank]:
    """Returns the type of bank for a placement, in the strategy's scope."""
    num_replicas = tf.distribute.get_strategy().num_replicas_in_sync
    is_sharded = placement == "sharded" and num_replicas > 1
    return ShardedMemoryBank if is_sharded else MemoryBank


class ShardedRows(VariableBackedWeight):
    """A weight `[n, embedding_dim]` of which each replica has a block of rows.

    Replica r has the rows of the ids from r * shard_size on. The last shards
    may have unused rows at their ends. Keras saves, copies and restores the
    weight as a whole, by way of the host; with several hosts, all of them must
    do so together, unless each has a copy (`gather_to_host`).

    Attributes:
        shard_size: The number of rows of a replica.
    """

    def __init__(self, shape: tuple[int, int], dtype: str):
        strategy = tf.distribute.get_strategy()
        size = -(-shape[0] // strategy.num_replicas_in_sync)
        shards = tf.Variable(
            lambda: tf.zeros([size, shape[1]], dtype),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.NONE,
            name="rows",
        )
        super().__init__(shards, shape, "rows")
        self.shard_size = size
        self._strategy = strategy
        self._host_copy: np.ndarray | None = None
        firsts = strategy.experimental_distribute_values_from_function(
            lambda context: context.replica_id_in_sync_group * size
        )
        # The first id and the rows of each replica on this host.
        self._local = list(
            zip(
                strategy.experimental_local_results(firsts),
                strategy.experimental_local_results(shards),
                strict=True,
            )
        )
        self._block = min(_BLOCK, shape[0])
        self._read_block = tf.function(self._gather_block, autograph=False)

    # === In a replica's context ===

    def first_id(self) -> Tensor:
        """Returns the id of this replica's first row, int64."""
        context = tf.distribute.get_replica_context()
        first = context.replica_id_in_sync_group * self.shard_size
        return tf.cast(first, tf.int64)

    def positions_of(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Returns positions in this replica's shard, and which of them exist.

        Positions are int64; those of other replicas' ids are out of range.
        """
        positions = tf.cast(ids, tf.int64) - self.first_id()
        return positions, (positions >= 0) & (positions < self.shard_size)

    def read_own(self, ids: Tensor) -> Tensor:
        """Returns `[..., embedding_dim]`, with zeros for other replicas' rows.

        The sum over the replicas has all rows.
        """
        positions, is_own = self.positions_of(ids)
        rows = replicas.read_rows(self.value, tf.where(is_own, positions, 0))
        return tf.where(is_own[..., None], rows, tf.zeros([], rows.dtype))

    # === Outside a step ===

    def set_rows(self, ids: np.ndarray, new: np.ndarray) -> None:
        """Sets the rows of distinct ids; each host sets those that it has."""
        self._host_copy = None
        for first, shard in self._local:
            is_own = (ids >= first) & (ids < first + self.shard_size)
            if is_own.any():
                with tf.device(shard.device):
                    rows = tf.cast(new[is_own], shard.dtype)
                    positions = ids[is_own] - first
                    shard.scatter_update(tf.IndexedSlices(rows, positions))

    def numpy(self) -> np.ndarray:
        """Returns all rows, copied to the host in blocks."""
        if self._host_copy is not None:
            return self._host_copy
        num_rows = self.shape[0]
        whole = np.empty(self.shape, self.value.dtype.as_numpy_dtype)
        for start in range(0, num_rows, self._block):
            block = self._read_block(tf.constant(start, tf.int64)).numpy()
            whole[start : start + self._block] = block[: num_rows - start]
        return whole

    def _gather_block(self, start: Tensor) -> Tensor:
        def gather() -> Tensor:
            rows = self.read_own(start + tf.range(self._block, dtype=tf.int64))
            # Not every device adds in half precision. Sums of one number and
            # zeros are exact.
            wide = tf.float32 if rows.dtype.size < 4 else rows.dtype
            return replicas.sum_over_replicas(tf.cast(rows, wide))

        return replicas.first_replica(
            self._strategy, self._strategy.run(gather)
        )

    def __array__(self, dtype: Any = None) -> np.ndarray:
        return np.asarray(self.numpy(), dtype)

    def assign(self, value: Any) -> Any:
        """Sets all rows from anything that has slices, block by block."""
        if tuple(value.shape) != tuple(self.shape):
            raise ValueError(
                f"`value` must have the shape {tuple(self.shape)} of the "
                f"memory bank. Received: value.shape={tuple(value.shape)}"
            )
        for start in range(0, self.shape[0], self._block):
            block = np.asarray(value[start : start + self._block])
            self.set_rows(np.arange(start, start + len(block)), block)
        return value

    def on_host(self, is_read: bool) -> tf.Variable:
        """Returns a variable on the host for all rows, zeros if not read."""
        with tf.device("CPU:0"):
            value = (
                self.numpy() if is_read else tf.zeros(self.shape, self.dtype)
            )
            return tf.Variable(value, trainable=False)

    def gather_to_host(self) -> None:
        """See `MemoryBank.gather_to_host`."""
        is_spread = len(self._local) < self._strategy.num_replicas_in_sync
        if is_spread and self._host_copy is None:
            self._host_copy = self.numpy()

    def discard_host_copy(self) -> None:
        """See `MemoryBank.discard_host_copy`."""
        self._host_copy = None


class ShardedMemoryBank(MemoryBank):
    """A memory bank that is divided among the replicas of a strategy."""

    def _create_rows(self, shape: tuple[int, int], dtype: str) -> ShardedRows:
        return ShardedRows(shape, dtype)

    @property
    def rows(self) -> ShardedRows:
        return self._rows

    def _set_rows(self, ids: np.ndarray, new: Tensor) -> None:
        self.rows.set_rows(np.asarray(ids), new.numpy())

    def gather_to_host(self) -> None:
        self.rows.gather_to_host()

    def discard_host_copy(self) -> None:
        self.rows.discard_host_copy()

    def lookup(self, ids: Tensor) -> Tensor:
        """Returns the rows of this replica's ids `[batch]`, within a step."""
        everyone = replicas.gather_over_replicas(ids)
        return replicas.own_part(self._lookup_shared(everyone))

    def _lookup_shared(self, ids: Tensor) -> Tensor:
        """Returns the rows of ids that are the same on every replica."""
        rows = tf.cast(self.rows.read_own(ids), self.dtype)
        return replicas.sum_over_replicas(rows)

    def update(self, ids: Tensor, embeddings: Tensor) -> None:
        ids = replicas.gather_over_replicas(ids)
        v = replicas.gather_over_replicas(embeddings)
        positions, is_own = self.rows.positions_of(ids)
        # The order is kept, so that the last occurrence of an id is the same.
        own = tf.boolean_mask(positions, is_own), tf.boolean_mask(v, is_own)
        replicas.update_own_copy(self.rows.value, self._move, own)

    def log_sum_exp(self, v: Tensor, temperature: float) -> Tensor:
        rows, instances = self.rows, self.instances
        first = rows.first_id()
        # The instances whose rows are here have positions in [start, stop).
        ends = instances.positions_of(
            tf.stack([first, first + rows.shard_size])
        )
        ends = tf.cast(tf.minimum(ends, instances.count), tf.int32)
        start, stop = tf.unstack(ends)

        def read_rows(positions: Tensor) -> Tensor:
            ids = tf.cast(instances.ids_at(positions + start), tf.int64)
            return replicas.read_rows(rows.value, ids - first)

        def sums_of(v: Tensor) -> streamed_softmax.Sums:
            everyone = replicas.gather_over_replicas(v)
            largest, total, weighted = streamed_softmax.one_pass(
                everyone, read_rows, stop - start, temperature
            )
            shards = replicas.gather_over_replicas(largest[None])
            largest_of_all = tf.reduce_max(shards, axis=0)
            sums = tf.concat([total[:, None], weighted], axis=1)
            sums *= tf.exp(largest - largest_of_all)[:, None]
            sums = replicas.own_part(replicas.sum_over_replicas(sums))
            return streamed_softmax.Sums(
                replicas.own_part(largest_of_all), sums[:, 0], sums[:, 1:]
            )

        return streamed_softmax.with_gradient(v, sums_of, temperature)

    def negative_logits(
        self, v: Tensor, ids: Tensor, temperature: float
    ) -> Tensor:
        rows = self._lookup_shared(ids)
        return formulas.logits(v, rows, temperature)
