"""Exact nearest-neighbor search in the rows of a bank."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent import futures

import numpy as np
import tensorflow as tf

from tf_instdisc.errors import UsageError

_QUERY_CHUNK = 512
_SIMILARITIES = 2**25  # For a chunk of queries and a chunk of rows.
_BLOCK = 32
_FEW = 4  # Up to this number of queries, NumPy computes the products.
_COPY = 2**22  # Values of NumPy rows that are copied at a time.
_PART = 2**21  # Values of rows that a thread processes at a time.
_PRECISION = threading.RLock()  # TensorFlow's setting is global.


def top_k(
    queries: np.ndarray, rows: np.ndarray | tf.Tensor, num_neighbors: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the most similar rows of each query.

    The search works in chunks. Besides its arguments and results, it holds at
    most 2 x 2**25 similarities (256 MiB), and a copy of two chunks of rows
    (32 MiB) if those are a NumPy array. Pass the rows as a tensor to search
    them many times.

    Args:
        queries: float `[num_queries, dim]`.
        rows: float `[num_rows, dim]`, a NumPy array or a tensor.
        num_neighbors: At least 1; it is limited to `num_rows`.

    Returns:
        The inner products, float32 `[num_queries, num_neighbors]`, in
        descending order, and the positions of their rows, int64 of the same
        shape. Ties are broken in favor of earlier rows.

    Raises:
        ValueError: If `num_neighbors` or a shape is out of range.
    """
    if num_neighbors < 1:
        raise UsageError(
            "`num_neighbors` must be at least 1. "
            f"Received: num_neighbors={num_neighbors}"
        )
    if queries.ndim != 2 or rows.ndim != 2 or queries.shape[1] != rows.shape[1]:
        raise UsageError(
            "`queries` and `rows` must be matrices of one width. Received: "
            f"queries.shape={queries.shape}, rows.shape={rows.shape}"
        )
    num_neighbors = min(num_neighbors, len(rows))
    chunks = [
        queries[start : start + _QUERY_CHUNK]
        for start in range(0, len(queries), _QUERY_CHUNK)
    ]
    if not chunks:
        empty = [0, num_neighbors]
        return np.empty(empty, np.float32), np.empty(empty, np.int64)
    multiply: Callable[..., tf.Tensor] = _multiply
    if len(queries) <= _FEW:
        visible = _in_memory(rows)
        if visible is not None and visible.dtype == np.float32:
            rows, multiply = visible, _multiply_few
    elif isinstance(rows, np.ndarray) and rows.nbytes <= 4 * _COPY:
        rows = tf.constant(rows, tf.float32)  # Copied once for all queries.
    # With two threads, NumPy selects rows for one chunk while TensorFlow
    # multiplies for the other.
    with (
        full_precision(),
        futures.ThreadPoolExecutor(max_workers=2) as pool,
    ):
        found = pool.map(
            lambda c: _top_k_of_chunk(c, rows, num_neighbors, multiply), chunks
        )
        scores, positions = zip(*found, strict=True)
    return np.concatenate(scores), np.concatenate(positions)


def without_self(
    scores: np.ndarray, positions: np.ndarray, own: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Removes each query from its own neighbors.

    If more rows than neighbors are equal, the query may not be among them. Its
    last neighbor is then removed.

    Args:
        scores: float32 `[num_queries, num_neighbors]`.
        positions: int64 of the same shape.
        own: int64 `[num_queries]`, the positions of the queries.
    """
    is_self = positions == own[:, None]
    is_self[~is_self.any(axis=1), -1] = True
    shape = [len(positions), positions.shape[1] - 1]
    return scores[~is_self].reshape(shape), positions[~is_self].reshape(shape)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Lets GPUs multiply float32 matrices in float32 within the block.

    By default, TensorFlow lets them use TF32, whose cosines have errors of up
    to 2e-4: some nearest neighbors and pairs would be missed. Other threads
    wait for the block to end.
    """
    setting = tf.config.experimental
    with _PRECISION:
        before = setting.tensor_float_32_execution_enabled()
        setting.enable_tensor_float_32_execution(False)
        try:
            yield
        finally:
            setting.enable_tensor_float_32_execution(before)


def _multiply(queries: np.ndarray, rows: np.ndarray | tf.Tensor) -> tf.Tensor:
    queries = tf.constant(queries, tf.float32)
    rows = tf.cast(rows, tf.float32)
    if len(queries) >= _QUERY_CHUNK:
        return tf.matmul(queries, rows, transpose_b=True)
    # For a few dozen queries, oneDNN's batched product is up to 1.7 times as
    # fast as its plain product.
    return tf.matmul(queries[None], rows[None], transpose_b=True)[0]


def _multiply_few(queries: np.ndarray, rows: np.ndarray) -> tf.Tensor:
    """Multiplies queries that are too few for an efficient matrix product.

    It reads the rows at the full memory bandwidth, unlike the matrix-vector
    products of TensorFlow and NumPy.
    """
    queries = queries.astype(np.float32)
    products = np.empty([len(queries), len(rows)], np.float32)
    size = max(1, _PART // queries.size)

    def take(start: int) -> None:
        part = slice(start, start + size)
        np.vecdot(rows[part], queries[:, None], out=products[:, part])

    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(take, range(0, len(rows), size)))
    return tf.constant(products)


def _in_memory(rows: np.ndarray | tf.Tensor) -> np.ndarray | None:
    """Returns the rows as an array without a copy; None if impossible."""
    if isinstance(rows, np.ndarray):
        return rows
    on_host = "CPU" in rows.device and rows.dtype == tf.float32
    return np.asarray(memoryview(rows)) if on_host else None


def _top_k_of_chunk(
    queries: np.ndarray,
    rows: np.ndarray | tf.Tensor,
    num_neighbors: int,
    multiply: Callable[..., tf.Tensor],
) -> tuple[np.ndarray, np.ndarray]:
    scores = np.empty([len(queries), 0], np.float32)
    positions = np.empty([len(queries), 0], np.int64)
    most = len(rows)
    if multiply is _multiply and isinstance(rows, np.ndarray):
        # TensorFlow copies the rows; small copies reuse allocated memory.
        most = max(_COPY // rows.shape[1], 1)
    lowest = np.full([len(queries), 1], -np.inf, np.float32)
    for start, stop in _row_chunks(len(queries), len(rows), most):
        similarities = multiply(queries, rows[start:stop])
        values, columns = _candidates(similarities, num_neighbors, lowest)
        # Earlier rows come first, so that ties are broken in their favor.
        scores = np.concatenate([scores, values], axis=1)
        positions = np.concatenate([positions, columns + start], axis=1)
        if stop < len(rows):
            lowest = np.maximum(lowest, _kth_largest(scores, num_neighbors))
        if scores.shape[1] > 4 * num_neighbors:
            scores, positions = _ranked(scores, positions, num_neighbors)
    return _ranked(scores, positions, num_neighbors)


def _ranked(
    scores: np.ndarray, positions: np.ndarray, number: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the largest scores of each row in descending order."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :number]
    return (
        np.take_along_axis(scores, order, axis=1),
        np.take_along_axis(positions, order, axis=1),
    )


def _row_chunks(
    num_queries: int, num_rows: int, most: int
) -> Iterator[tuple[int, int]]:
    """Yields chunks of whole blocks, then the incomplete block."""
    size = min(_SIMILARITIES // num_queries, most)
    size = max(size // _BLOCK, 1) * _BLOCK
    whole = num_rows // _BLOCK * _BLOCK
    for start in range(0, whole, size):
        yield start, min(start + size, whole)
    if whole < num_rows:
        yield whole, num_rows


def _candidates(
    similarities: tf.Tensor, number: int, lowest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the largest values of each row and possibly some others.

    Each of the k largest values is in one of the k blocks with the largest
    maxima, and is at least as large as the smallest of these maxima.
    Therefore, most blocks, and most values of the others, need not be ranked.
    This also holds for ties if the first of equal maxima is preferred.

    Args:
        similarities: Tensor `[num_queries, num_rows]`.
        number: k.
        lowest: `[num_queries, 1]`; smaller values are ignored.

    Returns:
        Values and columns, `[num_queries, >= 0]`, in ascending order of the
        columns; short rows are padded with -inf.
    """
    num_queries, num_rows = similarities.shape
    has_blocks = not num_rows % _BLOCK and num_rows // _BLOCK > number
    size = _BLOCK if has_blocks else 1
    num_blocks = num_rows // size
    blocks = tf.reshape(similarities, [num_queries * num_blocks, size])
    maxima = tf.reduce_max(blocks, axis=1).numpy()
    maxima = maxima.reshape([num_queries, num_blocks])
    lowest = np.maximum(lowest, _kth_largest(maxima, number))
    chosen = np.flatnonzero(_first_at_least(maxima, lowest, number))
    values = tf.gather(blocks, chosen).numpy()
    rows = chosen // num_blocks
    picked, places = np.divmod(
        np.flatnonzero(values >= lowest[rows]), values.shape[1]
    )
    rows = rows[picked]
    columns = (chosen[picked] - rows * num_blocks) * size + places
    # The values of each row are packed to the left.
    counts = np.bincount(rows, minlength=num_queries)
    slots = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
    shape = num_queries, counts.max()
    packed = np.full(shape, -np.inf, values.dtype)
    packed[rows, slots] = values[picked, places]
    packed_columns = np.zeros(shape, np.int64)
    packed_columns[rows, slots] = columns
    return packed, packed_columns


def _kth_largest(values: np.ndarray, number: int) -> np.ndarray:
    """Returns the k-th largest value of each row; -inf if there are fewer.

    NumPy's partition is several times as fast as `tf.math.top_k` on a CPU.
    """
    place = values.shape[1] - number
    if place < 0:
        return np.full([len(values), 1], -np.inf, values.dtype)
    return np.partition(values, place, axis=1)[:, place, None]


def _first_at_least(
    values: np.ndarray, lowest: np.ndarray, number: int
) -> np.ndarray:
    """Returns which values are large enough, at most `number` in each row."""
    is_chosen = values >= lowest
    crowded = np.flatnonzero(np.count_nonzero(is_chosen, axis=1) > number)
    if len(crowded):
        order = np.argsort(-values[crowded], axis=1, kind="stable")
        is_chosen[crowded] = False
        is_chosen[crowded[:, None], order[:, :number]] = True
    return is_chosen
