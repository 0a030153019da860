"""A bank in partitions, as a search index inside a SavedModel."""

import numpy as np
import tensorflow as tf

from tf_instdisc.runs.bank import Bank
from tf_instdisc.serving import partitions as parts
from tf_instdisc.serving.bank_index import BankIndex, fixed
from tf_instdisc.serving.partitions import Partitions, Probes


class PartitionedIndex(BankIndex):
    """Finds the nearest rows in the partitions nearest to a query.

    The search is approximate, as it misses neighbors in other partitions. It
    consists of ordinary TensorFlow ops, so that any server runs it.

    Args:
        bank: The bank of a run.
        dtype: As in `BankIndex`.
        partitions: The partitions of the bank's rows.
        probes: The partitions that are read for each query.
        labeled_probes: The same for a search of the rows with a label.
    """

    def __init__(
        self,
        bank: Bank,
        dtype: str,
        partitions: Partitions,
        probes: Probes,
        labeled_probes: Probes,
    ):
        is_labeled = bank.labels >= 0
        # A partition begins with its labeled rows.
        super().__init__(
            bank, dtype, np.lexsort([~is_labeled, partitions.assignment])
        )
        self.probes = probes
        self.labeled_probes = labeled_probes
        self.num_partitions = len(partitions.centroids)
        self.centroids = fixed(partitions.centroids, "centroids")
        sizes = np.bincount(partitions.assignment)
        starts = np.cumsum(sizes) - sizes
        labeled_sizes = np.bincount(
            partitions.assignment, is_labeled, self.num_partitions
        ).astype(np.int64)
        self.starts = fixed(starts, "starts")
        self.sizes = fixed(sizes, "sizes")
        self.labeled_sizes = fixed(labeled_sizes, "labeled_sizes")
        self._smallest_first = np.sort(sizes)
        self._smallest_labeled_first = np.sort(labeled_sizes)

    def search(
        self, queries: tf.Tensor, num_neighbors: int, labeled: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the most similar rows that are found for each query.

        If the partitions to read have fewer rows than neighbors, the next
        nearest partitions are read as well.
        """
        num_rows, smallest = self.num_rows, self._smallest_first
        sizes, probes = self.sizes, self.probes.number
        if labeled:
            num_rows, smallest = self.num_labeled, self._smallest_labeled_first
            sizes, probes = self.labeled_sizes, self.labeled_probes.number
        number = min(num_neighbors, num_rows)
        # This many partitions have enough rows, whichever they are.
        enough = int(np.searchsorted(np.cumsum(smallest), number)) + 1
        similarities = tf.matmul(queries, self.centroids, transpose_b=True)
        _, nearest = tf.math.top_k(similarities, max(enough, probes))
        sizes = tf.gather(sizes, nearest)
        rows_before = tf.cumsum(sizes, axis=1, exclusive=True)
        is_read = (tf.range(nearest.shape[1]) < probes) | (rows_before < number)
        starts = tf.gather(self.starts, nearest)
        stops = tf.where(is_read, starts + sizes, starts)

        def search_one(
            values: tuple[tf.Tensor, tf.Tensor, tf.Tensor],
        ) -> tuple[tf.Tensor, tf.Tensor]:
            query, starts, stops = values
            rows = tf.ragged.range(starts, stops).flat_values
            # Twice as fast as the batched product of `_cosines_of`.
            own = tf.cast(tf.gather(self.rows.value(), rows), tf.float32)
            cosines = tf.matmul(own, query[:, None])[:, 0]
            if self.scales is not None:
                cosines *= tf.gather(self.scales.value(), rows)
            scores, picked = tf.math.top_k(cosines, number)
            return scores, tf.gather(rows, picked)

        # One after the other, as the rows of many queries need much memory.
        return tf.map_fn(
            search_one,
            (queries, starts, stops),
            fn_output_signature=(
                tf.TensorSpec([number], tf.float32),
                tf.TensorSpec([number], tf.int64),
            ),
            parallel_iterations=1,
        )


def build_index(
    bank: Bank,
    num_partitions: int,
    dtype: str = "float32",
    target_recall: float = 0.95,
    num_neighbors: int = 10,
    num_votes: int = 1,
) -> BankIndex:
    """Builds the index of a bank.

    Args:
        bank: The bank of a run.
        num_partitions: At most the number of rows; 0 for exhaustive search.
        dtype: As in `BankIndex`.
        target_recall: The least recall of searches, in (0, 1).
        num_neighbors: The number of neighbors whose recall is measured.
        num_votes: The same for a search of the rows with a label.

    Raises:
        UsageError: If partitions are wanted and faiss is not installed.
    """
    if not num_partitions:
        return BankIndex(bank, dtype)
    rows = np.ascontiguousarray(bank.rows, np.float32)
    partitions = parts.cluster(rows, num_partitions)
    is_labeled = bank.labels >= 0
    probes, labeled_probes = (
        parts.probes_for_recall(
            Partitions(partitions.centroids, partitions.assignment[chosen]),
            rows[chosen],
            number,
            target_recall,
        )
        for chosen, number in (
            (slice(None), num_neighbors),
            (is_labeled, num_votes),
        )
    )
    return PartitionedIndex(bank, dtype, partitions, probes, labeled_probes)
