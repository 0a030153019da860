"""Exact nearest neighbors among any number of embeddings, by Apache Beam.

python search_shards.py photos.parquet queries.npz found.npz [--runner=...]

`photos.parquet` is a directory that `instdisc embed --runner` wrote, and
`queries.npz` what `instdisc embed` wrote. Each worker compares all queries with
the rows of a file, and keeps the best of them.
"""

import sys

import apache_beam as beam
import numpy as np
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from pyarrow import parquet

NUM_NEIGHBORS = 10


def search(path, queries):
    """Returns cosines and ids, `[num_queries, NUM_NEIGHBORS]`, of a file."""
    with FileSystems.open(path) as file:
        table = parquet.read_table(file)
    parts = []
    for batch in table.to_batches(max_chunksize=4096):
        rows = batch["embedding"].flatten().to_numpy()
        rows = rows.reshape(len(batch), -1).astype(np.float32)
        if "scale" in table.column_names:
            rows *= batch["scale"].to_numpy()[:, None]
        scores = queries @ rows.T
        ids = batch["id"].to_numpy()
        parts.append(top(scores, np.broadcast_to(ids, scores.shape)))
    return merge(parts)


def merge(parts):
    """Returns the best of several results, in descending order."""
    parts = [part for part in parts if part is not None]
    if not parts:
        return None  # Of a file without rows.
    columns = zip(*parts, strict=True)
    scores, ids = top(*(np.concatenate(c, axis=1) for c in columns))
    order = np.argsort(-scores, axis=1)
    return tuple(np.take_along_axis(c, order, axis=1) for c in (scores, ids))


def top(scores, ids):
    """Returns the best columns of each row, in any order."""
    if scores.shape[1] <= NUM_NEIGHBORS:
        return scores, ids
    kept = np.argpartition(-scores, NUM_NEIGHBORS - 1)[:, :NUM_NEIGHBORS]
    return tuple(np.take_along_axis(c, kept, axis=1) for c in (scores, ids))


def save(found, path):
    """Writes the result."""
    scores, ids = found
    with FileSystems.create(path) as file:
        np.savez(file, scores=scores, ids=ids)


if __name__ == "__main__":
    rows, queries_file, output, *flags = sys.argv[1:]
    queries = np.load(queries_file)["embeddings"]
    (match,) = FileSystems.match([f"{rows}/part-*"])
    if not match.metadata_list:
        sys.exit(
            f"No file matches {rows}/part-*. Give a directory that `instdisc "
            "embed --runner` wrote."
        )
    with beam.Pipeline(options=PipelineOptions(flags)) as pipeline:
        _ = (
            pipeline
            | beam.Create([found.path for found in match.metadata_list])
            | beam.Map(search, queries)
            | beam.CombineGlobally(merge)
            | beam.Map(save, output)
        )
