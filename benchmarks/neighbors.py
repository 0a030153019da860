"""Nearest neighbors compared with faiss, for kNN evaluation and retrieval.

Retrieval is measured from Python (`neighbors.top_k`) and in the graph of an
exported model (`BankIndex`), where the bank can be in int8. The floor is the
time of reading the bank once, with one thread per core.
"""

import os
from concurrent import futures

import numpy as np
import tensorflow as tf

from benchmarks import timing
from tf_instdisc.retrieval import neighbors
from tf_instdisc.runs.bank import Bank
from tf_instdisc.serving.bank_index import BankIndex


def unit_rows(number: int, seed: int) -> np.ndarray:
    """Returns random unit rows, float32 `[number, 128]`."""
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal([number, 128], np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def search_index(rows: np.ndarray, queries: np.ndarray, wanted: int, dtype):
    """Returns a function that runs the search of an exported model."""
    number = len(rows)
    bank = Bank(
        rows=rows,
        instance_ids=np.arange(number),
        names=np.zeros([number], "U1"),
        labels=np.full([number], -1),
        class_names=(),
    )
    index = BankIndex(bank, dtype)
    search = tf.function(lambda q: index.search(q, wanted))
    queries = tf.constant(queries)
    return lambda: [result.numpy() for result in search(queries)]


def read_once(values: np.ndarray):
    """Returns a function that reads a whole array on all cores."""
    flat = values.reshape(-1).view(np.int64)
    parts = np.array_split(flat, 4 * os.cpu_count())
    pool = futures.ThreadPoolExecutor(os.cpu_count())
    return lambda: list(pool.map(np.bitwise_or.reduce, parts))


def knn_functions(queries, rows, wanted):
    """Returns the functions to compare for kNN evaluation by name."""
    resident = tf.constant(rows)
    return {
        "tf_instdisc": lambda: neighbors.top_k(queries, resident, wanted),
        # The sum avoids copying a large result.
        "product alone": lambda: [
            tf.reduce_sum(
                tf.matmul(queries[i : i + 256], resident, transpose_b=True)
            ).numpy()
            for i in range(0, len(queries), 256)
        ],
    }


def retrieval_functions(queries, rows, wanted):
    """Returns the functions to compare for retrieval by name."""
    levels = (rows * 127).astype(np.int8)
    resident = tf.constant(rows)
    return {
        "tf_instdisc": lambda: neighbors.top_k(queries, resident, wanted),
        "tf_instdisc, rows in NumPy": lambda: neighbors.top_k(
            queries, rows, wanted
        ),
        "exported, float32": search_index(rows, queries, wanted, "float32"),
        "exported, int8": search_index(rows, queries, wanted, "int8"),
        "floor: float32 read once": read_once(rows),
        "floor: int8 read once": read_once(levels),
    }


def main() -> None:
    """Prints the tables."""
    tiny = timing.parser(__doc__).parse_args().tiny
    faiss = timing.optional("faiss")
    # Queries, rows, neighbors.
    sizes = [(10_000, 50_000, 200), (1, 1_000_000, 10), (32, 1_000_000, 10)]
    for size in [(10, 500, 3), (1, 4096, 3)] if tiny else sizes:
        num_queries, num_rows, wanted = size
        queries, rows = unit_rows(num_queries, 0), unit_rows(num_rows, 1)
        is_knn = size in (sizes[0], (10, 500, 3))
        make = knn_functions if is_knn else retrieval_functions
        functions = make(queries, rows, wanted)
        if faiss:
            index = faiss.IndexFlatIP(128)
            index.add(rows)
            functions["faiss"] = lambda: index.search(queries, wanted)  # noqa: B023
        seconds = timing.compare(functions, 2 if is_knn else 7)
        head = ["ms", "CPU ms", "time / faiss", "CPU time / faiss"]
        timing.print_table(
            ["queries", "rows", "k", "search", *head],
            [
                [
                    *size,
                    name,
                    *timing.milliseconds(value),
                    *timing.ratios(value, seconds.get("faiss")),
                ]
                for name, value in seconds.items()
            ],
        )
    print_recall(1000 if tiny else 100_000)


def print_recall(num_rows: int) -> None:
    """Prints the recall@10 of an int8 bank of random rows."""
    rows, queries = unit_rows(num_rows, 1), unit_rows(100, 0)
    found = {
        dtype: search_index(rows, queries, 10, dtype)()[1]
        for dtype in ("float32", "int8")
    }
    hits = [
        len(np.intersect1d(a, b)) for a, b in zip(*found.values(), strict=True)
    ]
    timing.print_table(
        ["rows", "recall@10 of int8"],
        [[num_rows, f"{np.mean(hits) / 10:.4f}"]],
    )


if __name__ == "__main__":
    main()
