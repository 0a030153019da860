"""Exhaustive search, partitions in the graph and indexes of faiss compared.

    python -m benchmarks.index --run_dir=RUN [--num_rows=1000000]

The rows are the bank of a run and encoded augmented copies of its images, and
the queries are its encoded test images, which the run has not seen. With
`--encoded=FILE.npz`, both are kept in a file for the next time.
"""

import dataclasses
import itertools
import os
import time

import numpy as np
import tensorflow as tf

from benchmarks import timing
from tf_instdisc.data.augment import augmentation_of
from tf_instdisc.data.pipeline import evaluation_dataset, training_dataset
from tf_instdisc.runs import embedding, opening, sources
from tf_instdisc.runs.bank import Bank
from tf_instdisc.runs.load import load_encoder
from tf_instdisc.serving import faiss_index
from tf_instdisc.serving.partitioned_index import PartitionedIndex, build_index
from tf_instdisc.serving.partitions import import_faiss, number_of_partitions

_K = 10
_BATCH = 500
_NUM_QUERIES = 1000


def encode(run_dir: str, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows and queries, float32 `[..., dim]`."""
    run = opening.load(run_dir)
    config = run.read_config()
    encoder = load_encoder(run.path)
    size = encoder.input_shape[1]
    encode = embedding.inference(encoder)
    source = sources.open_train(config.data)
    rows = [run.load_bank().rows]
    copies = -(-num_rows // len(rows[0])) - 1
    augmentation = dataclasses.replace(augmentation_of(config), image_size=size)
    for images, _ in training_dataset(source, augmentation, _BATCH, copies):
        rows.append(encode(images).numpy())
    test = evaluation_dataset(
        sources.open_test(config.data), size, _BATCH, config.data.crop_fraction
    )
    queries = embedding.embed(encode, test.take(_NUM_QUERIES // _BATCH))
    return np.concatenate(rows)[:num_rows], queries.embeddings


def tiny_rows(number: int, seed: int) -> np.ndarray:
    """Returns unit rows around 50 directions."""
    centers = np.random.default_rng(0).normal(size=[50, 16])
    rng = np.random.default_rng(seed)
    rows = centers[rng.integers(0, 50, number)]
    rows = (rows + rng.normal(size=rows.shape)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def in_graph(rows: np.ndarray, partitions: str, dtype: str):
    """Returns a search, the bytes of its index and what it reads."""
    bank = Bank(
        rows=rows,
        instance_ids=np.arange(len(rows)),
        names=np.zeros([len(rows)], "U1"),
        labels=np.full([len(rows)], -1),
    )
    number = number_of_partitions(partitions, len(rows))
    index = build_index(bank, number, dtype, num_neighbors=_K)
    stored = [index.rows, index.scales]
    reads = "all rows"
    if isinstance(index, PartitionedIndex):
        stored += [index.centroids, index.starts, index.sizes]
        reads = f"{index.probes.number} of {index.num_partitions} partitions"
    num_bytes = sum(v.numpy().nbytes for v in stored if v is not None)
    ids = index.instance_ids.numpy()
    search = tf.function(lambda queries: index.search(queries, _K)[1])
    return lambda queries: ids[search(queries).numpy()], num_bytes, reads


def with_faiss(rows: np.ndarray, kind: str):
    """As `in_graph`, for an index of faiss."""
    index, probes = faiss_index.build(kind, rows, _K, 0.95)
    num_bytes = len(import_faiss().serialize_index(index))
    what = "candidates" if kind == "hnsw" else f"of {index.nlist} partitions"
    return (
        lambda queries: index.search(queries, _K)[1],
        num_bytes,
        f"{probes.number} {what}",
    )


def main() -> None:
    """Prints the table."""
    parser = timing.parser(__doc__)
    parser.add_argument("--run_dir")
    parser.add_argument("--num_rows", type=int, default=1_000_000)
    parser.add_argument("--encoded")
    parsed = parser.parse_args()
    if parsed.tiny:
        rows, queries = tiny_rows(3000, 1), tiny_rows(100, 2)
    elif parsed.encoded and os.path.exists(parsed.encoded):
        with np.load(parsed.encoded) as file:
            rows, queries = file["rows"], file["queries"]
    else:
        rows, queries = encode(parsed.run_dir, parsed.num_rows)
        if parsed.encoded:
            np.savez(parsed.encoded, rows=rows, queries=queries)
    number = "32" if parsed.tiny else "auto"
    makers = {
        "exhaustive, float32": lambda: in_graph(rows, "none", "float32"),
        "exhaustive, int8": lambda: in_graph(rows, "none", "int8"),
        "partitions, float32": lambda: in_graph(rows, number, "float32"),
        "partitions, int8": lambda: in_graph(rows, number, "int8"),
        "faiss, IVF-PQ": lambda: with_faiss(rows, "ivfpq"),
        "faiss, HNSW": lambda: with_faiss(rows, "hnsw"),
    }
    exact = import_faiss().knn(
        queries, rows, _K, metric=import_faiss().METRIC_INNER_PRODUCT
    )[1]
    cells, functions = {}, {}
    for name, make in makers.items():
        start = time.perf_counter()
        search, num_bytes, reads = make()
        seconds = time.perf_counter() - start
        found = np.concatenate([search(query[None]) for query in queries])
        hits = [
            len(np.intersect1d(a, b)) for a, b in zip(found, exact, strict=True)
        ]
        recall = np.mean(hits) / _K
        cells[name] = [
            reads,
            f"{seconds:.0f}",
            f"{num_bytes / 1e6:.0f}",
            f"{recall:.3f}",
        ]
        # Another query each time, as others are in the processor's cache.
        turns = itertools.cycle(queries[:, None])
        functions[name] = lambda s=search, t=turns: s(next(t))
    times = timing.compare(functions, 2 if parsed.tiny else 9)
    timing.print_table(
        ["index", "reads", "build s", "MB", "recall@10", "ms", "CPU ms"],
        [
            [name, *cells[name], *timing.milliseconds(times[name])]
            for name in makers
        ],
    )


if __name__ == "__main__":
    main()
