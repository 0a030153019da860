"""Queries of a run's bank: an image file, a folder, or rows of the bank."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tf_instdisc.data import decode
from tf_instdisc.data.decode import FORMATS
from tf_instdisc.data.folder import folder_source
from tf_instdisc.data.pipeline import evaluation_dataset
from tf_instdisc.data.sources import NO_LABEL, array_source
from tf_instdisc.errors import UsageError
from tf_instdisc.paths import local_path
from tf_instdisc.retrieval.neighbors import top_k, without_self
from tf_instdisc.runs.bank import Bank, sample_rows
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.runs.embedding import embed
from tf_instdisc.runs.images import RunImages
from tf_instdisc.runs.load import load_encoder

_BATCH = 256

Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""Takes queries and the number of neighbors, and returns scores and
positions, like `top_k`."""


@dataclasses.dataclass(frozen=True)
class Queries:
    """Images whose neighbors are searched.

    Attributes:
        names: One for each query.
        labels: int64 `[num_queries]` in the run's numbering; `NO_LABEL` if
            there is none.
        embeddings: float32 `[num_queries, embedding_dim]`, of unit length.
        images: uint8 `[num_queries, size, size, 3]`.
        positions: int64 `[num_queries]`, the queries' own rows in the bank;
            None if the queries are not in the bank.
        folder: The folder of the files that `names` are; None without files.
    """

    names: list[str]
    labels: np.ndarray
    embeddings: np.ndarray
    images: np.ndarray
    positions: np.ndarray | None = None
    folder: str | None = None


@dataclasses.dataclass(frozen=True)
class Neighbors:
    """The nearest rows of each query, starting with the nearest.

    Attributes:
        scores: Cosines, float32 `[num_queries, num_neighbors]`.
        positions: Rows of the bank, int64 of the same shape.
    """

    scores: np.ndarray
    positions: np.ndarray


def nearest(
    queries: Queries,
    bank: Bank,
    num_neighbors: int,
    search: Search | None = None,
) -> Neighbors:
    """Finds the neighbors of queries, excluding the queries themselves.

    Args:
        queries: The queries.
        bank: The rows to search.
        num_neighbors: At least 1; it is limited to the number of other rows.
        search: Searches an index of the bank; by default, all rows of the
            bank are searched.
    """
    search = search or (lambda rows, number: top_k(rows, bank.rows, number))
    if queries.positions is None:
        return Neighbors(*search(queries.embeddings, num_neighbors))
    found = search(queries.embeddings, num_neighbors + 1)
    return Neighbors(*without_self(*found, queries.positions))


def random_queries(
    images: RunImages, count: int, size: int, seed: int = 0
) -> Queries:
    """Draws at most `count` rows of the bank, in ascending order."""
    positions = sample_rows(len(images.bank.rows), count, seed)
    return row_queries(images, positions, size)


def row_queries(images: RunImages, positions: np.ndarray, size: int) -> Queries:
    """Returns the given rows of the bank as queries."""
    bank = images.bank
    return Queries(
        names=[str(name) for name in bank.names[positions]],
        labels=bank.labels[positions],
        embeddings=bank.rows[positions],
        images=images.read(positions, size)[0],
        positions=np.asarray(positions, np.int64),
        folder=images.config.data.images,
    )


def file_queries(
    run: RunDirectory, images: RunImages, path: str, size: int
) -> Queries:
    """Encodes an image file or all images of a folder.

    Files that cannot be decoded are reported and skipped. The classes of a
    folder are matched with the run's by name.

    Args:
        run: The run.
        images: The run's images.
        path: A file or a folder.
        size: Side of the pictures in pixels.

    Raises:
        ValueError: If `path` does not exist, or if no image can be read.
    """
    given, path = path, local_path(path, "query")
    if not os.path.exists(path):
        raise UsageError(
            "`query` must be an image, a folder of images, or random:COUNT. "
            f"Received: query={path!r}, which does not exist."
        )
    if os.path.isdir(path):
        source = folder_source(path, "skip")
    else:
        source = dataclasses.replace(
            array_source(_decode(path)[None]),
            instance_name=lambda _: os.path.basename(path),
        )

    embedded = embed(
        load_encoder(run.path),
        evaluation_dataset(
            source, images.image_size, _BATCH, images.crop_fraction
        ),
    )
    pictures = np.concatenate(
        [batch for batch, _, _ in evaluation_dataset(source, size, _BATCH)]
    )
    return Queries(
        names=[source.instance_name(int(i)) for i in embedded.instance_ids],
        labels=_match_labels(embedded.labels, source.class_names, images.bank),
        embeddings=embedded.embeddings,
        images=np.clip(np.round(pictures), 0, 255).astype(np.uint8),
        folder=given if os.path.isdir(path) else os.path.dirname(given) or ".",
    )


def _decode(path: str) -> np.ndarray:
    try:
        return decode.decode_whole(tf.io.read_file(path)).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise UsageError(
            f"`query` must be a {FORMATS} file. "
            f"Received: query={path!r}, which cannot be decoded."
        ) from error


def _match_labels(
    labels: np.ndarray, class_names: Sequence[str] | None, bank: Bank
) -> np.ndarray:
    known = {name: label for label, name in enumerate(bank.class_names)}
    table = [known.get(name, NO_LABEL) for name in class_names or ()]
    return np.array([table[i] if i >= 0 else NO_LABEL for i in labels])


def parse_query(
    run: RunDirectory, images: RunImages, query: str, size: int, seed: int
) -> Queries:
    """Returns the queries for a path or `random:COUNT`.

    Raises:
        ValueError: If COUNT is not a positive number.
    """
    kind, _, count = query.partition(":")
    if kind == "random" and not pathlib.Path(query).exists():
        if not count.isdecimal() or int(count) < 1:
            raise UsageError(
                "`query` must be random:COUNT with a COUNT of at least 1. "
                f"Received: query={query!r}"
            )
        return random_queries(images, int(count), size, seed)
    return file_queries(run, images, query, size)
