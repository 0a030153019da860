"""The memory bank as an index inside of a SavedModel."""

import numpy as np
import tensorflow as tf

from tf_instdisc.config.fields import require_choice
from tf_instdisc.errors import UsageError
from tf_instdisc.runs.bank import Bank
from tf_instdisc.serving.options import INDEX_DTYPES

_PIECE = 8192  # rows that stay in a core's cache as float32
_FEW = 32  # times the rows of the best blocks: cosines that are kept
_BLOCK = 32


class BankIndex(tf.Module):
    """Rows of a bank in few bytes, and the search for the nearest.

    The search is exhaustive, and exact for float32. An int8 row is rounded
    to 255 levels of its own largest entry, and scored as the unit vector
    that its integers point along.

    Args:
        bank: The bank of a run. Rows without a label are put last, so that
            those with a label are one block.
        dtype: `"float32"`, `"float16"` or `"int8"`.

    Attributes:
        num_rows: Rows of the bank.
        num_labelled: Rows that have a label.
        num_classes: Number of classes, 0 where there are no labels.

    Raises:
        ValueError: If the type is unknown, or the bank is empty.
    """

    def __init__(self, bank: Bank, dtype: str = "float32"):
        super().__init__(name="bank")
        require_choice("bank_dtype", dtype, INDEX_DTYPES)
        if not len(bank.rows):
            raise UsageError("A bank must have rows. Received: 0 rows")
        order = np.argsort(bank.labels < 0, kind="stable")
        self.num_rows = len(order)
        self.num_labelled = int((bank.labels >= 0).sum())
        self.num_classes = len(bank.class_names)
        stored, scales = quantize(bank.rows[order], dtype)
        self.rows = _fixed(stored, "rows")
        self.scales = None if scales is None else _fixed(scales, "scales")
        self.instance_ids = _fixed(
            bank.instance_ids[order].astype(np.int64), "instance_ids"
        )
        self.labels = _fixed(bank.labels[order].astype(np.int64), "labels")
        # Not a constant: those lie in the graph, which 2 GB limit.
        self.names = _fixed(
            np.char.encode(bank.names[order].astype(str), "utf-8").astype(
                object
            ),
            "names",
        )
        self.class_names = bank.class_names

    def search(
        self, queries: tf.Tensor, num_neighbors: int, labelled: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The most similar rows of each query.

        Args:
            queries: float32 `[batch, embedding_dim]`.
            num_neighbors: At least 1; more than there are rows gives all.
            labelled: Whether only rows with a label are searched.

        Returns:
            Cosines, float32 `[batch, num_neighbors]`, falling, and positions
            of their rows, int64 of the same shape.
        """
        num_rows = self.num_labelled if labelled else self.num_rows
        number = min(num_neighbors, num_rows)
        pieces = [
            slice(start, min(start + _PIECE, num_rows))
            for start in range(0, num_rows, _PIECE)
        ]
        if num_rows < _FEW * number * _BLOCK:
            cosines = [self._cosines(queries, piece) for piece in pieces]
            scores, rows = _top_k_by_blocks(tf.concat(cosines, 0), number)
            return scores, tf.cast(rows, tf.int64)
        # The k largest values stand in the k blocks with the largest maxima,
        # see `neighbors`. These few are computed again, so that the others
        # need not be kept.
        maxima = [self._block_maxima(queries, piece) for piece in pieces]
        _, blocks = tf.math.top_k(tf.transpose(tf.concat(maxima, 0)), number)
        rows = _rows_of(blocks)
        scores = self._cosines_of(queries, tf.minimum(rows, num_rows - 1))
        scores = tf.where(rows < num_rows, scores, -float("inf"))
        scores, picked = tf.math.top_k(scores, number)
        rows = tf.gather(rows, picked, batch_dims=1)
        return scores, tf.cast(rows, tf.int64)

    def _cosines(self, queries: tf.Tensor, piece: slice) -> tf.Tensor:
        """Of the rows of a piece, `[rows, batch]`."""
        # Rows on the left: the other order takes a fifth longer.
        rows = tf.cast(self.rows[piece], tf.float32)
        cosines = tf.matmul(rows, queries, transpose_b=True)
        if self.scales is not None:
            cosines *= self.scales[piece, None]
        return tf.ensure_shape(cosines, [piece.stop - piece.start, None])

    def _block_maxima(self, queries: tf.Tensor, piece: slice) -> tf.Tensor:
        """The largest cosine of each block, `[blocks, batch]`."""
        cosines = self._cosines(queries, piece)
        missing = -(piece.stop - piece.start) % _BLOCK
        if missing:
            cosines = tf.pad(
                cosines, [[0, missing], [0, 0]], constant_values=-1
            )
        blocks = tf.reshape(cosines, [-1, _BLOCK, tf.shape(queries)[0]])
        return tf.reduce_max(blocks, axis=1)

    def _cosines_of(self, queries: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Of each query and its own rows, `[batch, rows]`."""
        # Gathered from a variable itself, each later read would copy it.
        own = tf.cast(tf.gather(self.rows.value(), rows), tf.float32)
        cosines = tf.linalg.matvec(own, queries)
        if self.scales is not None:
            cosines *= tf.gather(self.scales.value(), rows)
        return cosines

    def vote(
        self, scores: tf.Tensor, positions: tf.Tensor, temperature: float
    ) -> tf.Tensor:
        """Shares of the classes in the vote of `neighbors.weighted_votes`.

        Args:
            scores: float32 `[batch, num_neighbors]`, falling.
            positions: int64 `[batch, num_neighbors]`, of labelled rows.
            temperature: τ of the weights, above 0.

        Returns:
            float32 `[batch, num_classes]`, which sum to 1.
        """
        weights = tf.nn.softmax(scores / temperature)
        labels = tf.gather(self.labels, positions)
        return tf.einsum(
            "bk,bkc->bc", weights, tf.one_hot(labels, self.num_classes)
        )


def _top_k_by_blocks(
    scores: tf.Tensor, number: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """`tf.math.top_k` of the columns, most blocks of rows being ruled out.

    The k largest values stand in the k blocks with the largest maxima, see
    `neighbors`.

    Args:
        scores: `[rows, batch]`.
        number: k.

    Returns:
        Values and rows, `[batch, k]`.
    """
    num_rows = scores.shape[0]
    num_blocks = num_rows // _BLOCK
    if num_rows % _BLOCK or num_blocks <= 4 * number:
        return tf.math.top_k(tf.transpose(scores), number)
    batch = tf.shape(scores)[1]
    blocks = tf.reshape(scores, [num_blocks, _BLOCK, batch])
    maxima = tf.transpose(tf.reduce_max(blocks, axis=1))
    _, chosen = tf.math.top_k(maxima, number)
    rows = _rows_of(chosen)
    column = tf.broadcast_to(tf.range(batch)[:, None], tf.shape(rows))
    values = tf.gather_nd(scores, tf.stack([rows, column], axis=-1))
    found, picked = tf.math.top_k(values, number)
    return found, tf.gather(rows, picked, batch_dims=1)


def _rows_of(blocks: tf.Tensor) -> tf.Tensor:
    """Rows of the blocks of each query, `[batch, blocks * 32]`, rising."""
    blocks = tf.sort(blocks, axis=-1)  # Ties go to earlier rows.
    rows = blocks[:, :, None] * _BLOCK + tf.range(_BLOCK)
    return tf.reshape(rows, [-1, blocks.shape[1] * _BLOCK])


def quantize(
    rows: np.ndarray, dtype: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Stores rows of unit length in fewer bytes.

    Args:
        rows: float32 `[num_rows, dim]`.
        dtype: `"float32"`, `"float16"` or `"int8"`.

    Returns:
        The rows as `dtype`, and for int8 what each one is multiplied with:
        float32 `[num_rows]`.
    """
    if dtype != "int8":
        return rows.astype(dtype), None
    largest = np.abs(rows).max(axis=1, keepdims=True)
    levels = np.round(rows * (127 / np.maximum(largest, 1e-12)))
    norms = np.linalg.norm(levels, axis=1)
    scales = 1 / np.maximum(norms, 1)
    return levels.astype(np.int8), scales.astype(np.float32)


def _fixed(values: np.ndarray, name: str) -> tf.Variable:
    return tf.Variable(values, trainable=False, name=name)
