"""Queries of a run's bank: an image file, a folder, or rows of the bank."""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tf_instdisc.data.decode import FORMATS
from tf_instdisc.errors import UsageError
from tf_instdisc.paths import local_path
from tf_instdisc.retrieval.neighbors import top_k, without_self
from tf_instdisc.runs.bank import Bank, sample_rows
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.runs.encoding import encode_files, encode_folder
from tf_instdisc.runs.images import RunImages
from tf_instdisc.runs.load import load_encoder

Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""Takes queries and the number of neighbors, and returns scores and
positions, like `top_k`."""


@dataclasses.dataclass(frozen=True)
class Queries:
    """Images whose neighbors are searched.

    Attributes:
        images: The images; labels are in the run's numbering.
        positions: int64 `[num_queries]`, the queries' own rows in the bank;
            None if the queries are not in the bank.
        folder: The folder or URL of their files; None without files.
    """

    images: RunImages
    positions: np.ndarray | None = None
    folder: str | None = None


class Neighbors(NamedTuple):
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
        num_neighbors: At least 1; it is limited to the number of other rows.
        search: Searches an index of the bank; by default, all rows of the
            bank are searched.
    """
    search = search or (lambda rows, number: top_k(rows, bank.rows, number))
    rows = queries.images.bank.rows
    if queries.positions is None:
        return Neighbors(*search(rows, num_neighbors))
    found = search(rows, num_neighbors + 1)
    return Neighbors(*without_self(*found, queries.positions))


def random_queries(images: RunImages, count: int, seed: int = 0) -> Queries:
    """Draws at most `count` rows of the bank, in ascending order."""
    return row_queries(images, sample_rows(len(images.bank.rows), count, seed))


def row_queries(images: RunImages, positions: np.ndarray) -> Queries:
    """Returns the given rows of the bank as queries."""
    return Queries(
        dataclasses.replace(images, bank=images.bank.take(positions)),
        positions,
        images.config.data.images,
    )


def file_queries(run: RunDirectory, images: RunImages, path: str) -> Queries:
    """Encodes an image file or all images of a folder.

    Files that cannot be decoded are reported and skipped. The classes of a
    folder are matched with the run's by name.

    Raises:
        UsageError: If `path` does not exist, or if no image can be read.
    """
    given, path = path, local_path(path, "query")
    if not os.path.exists(path):
        raise UsageError(
            "`query` must be an image, a folder of images, or random:COUNT. "
            f"Received: query={path!r}, which does not exist."
        )
    how = images.config, load_encoder(run.path), images.bank.class_names
    if os.path.isdir(path):
        return Queries(encode_folder(path, *how), folder=given)
    with open(path, "rb"):
        pass  # Raises an error that says why it cannot be read.
    folder, name = os.path.split(path)
    asked = encode_files(folder or ".", [name], *how)
    if not len(asked.bank.names):
        raise UsageError(
            f"`query` must be a {FORMATS} file. "
            f"Received: query={path!r}, which cannot be decoded."
        )
    return Queries(asked, folder=os.path.dirname(given) or ".")


def parse_query(
    run: RunDirectory, images: RunImages, query: str, seed: int
) -> Queries:
    """Returns the queries for a path or `random:COUNT`.

    Raises:
        UsageError: If COUNT is not a positive number.
    """
    kind, _, count = query.partition(":")
    if kind == "random" and not pathlib.Path(query).exists():
        if not count.isdecimal() or int(count) < 1:
            raise UsageError(
                "`query` must be random:COUNT with a COUNT of at least 1. "
                f"Received: query={query!r}"
            )
        return random_queries(images, int(count), seed)
    return file_queries(run, images, query)
