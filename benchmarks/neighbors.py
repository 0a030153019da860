"""Nearest neighbours against faiss: kNN evaluation, and retrieval."""

import math

import numpy as np
import tensorflow as tf

from benchmarks import timing
from tf_instdisc import neighbors


def unit_rows(number: int, seed: int) -> np.ndarray:
    """Random unit rows, float32 `[number, 128]`."""
    rows = np.random.default_rng(seed).normal(size=[number, 128])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def main() -> None:
    """Prints the table."""
    tiny = timing.arguments(__doc__).tiny
    faiss = timing.optional("faiss")
    # Queries, rows, neighbours.
    sizes = [(10_000, 50_000, 200), (1, 1_000_000, 10), (32, 1_000_000, 10)]
    table = []
    for num_queries, num_rows, wanted in [(10, 500, 3)] if tiny else sizes:
        queries, rows = unit_rows(num_queries, 0), unit_rows(num_rows, 1)
        resident = tf.constant(rows)
        functions = {
            "ours": lambda: neighbors.top_k(queries, resident, wanted),  # noqa: B023
            # What no exact search on this machine can go below: a product
            # that reads every row once.
            "product alone": lambda: [
                tf.reduce_sum(
                    tf.matmul(queries[i : i + 256], resident, transpose_b=True)  # noqa: B023
                ).numpy()
                for i in range(0, num_queries, 256)  # noqa: B023
            ],
        }
        if faiss:
            index = faiss.IndexFlatIP(128)
            index.add(rows)
            functions["faiss"] = lambda: index.search(queries, wanted)  # noqa: B023
        seconds = timing.compare(functions, 5)
        for name, value in seconds.items():
            ratio = value / seconds["faiss"] if faiss else math.nan
            table.append(
                [
                    num_queries,
                    num_rows,
                    wanted,
                    name,
                    f"{value * 1e3:.1f}",
                    f"{ratio:.2f}",
                ]
            )
    timing.print_table(
        ["queries", "rows", "k", "search", "ms", "time / faiss"], table
    )


if __name__ == "__main__":
    main()
