"""Stand-alone indexes: the rows of a run or of a file, without an encoder.

A version of an index contains `index.json` and either a SavedModel, whose
signature `serving_default` takes queries, or `index.faiss` and
`instances.npz`.
"""

import dataclasses
import json
import os
import pathlib
import zipfile
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_instdisc import atomic
from tf_instdisc.errors import MissingFileError, UsageError
from tf_instdisc.paths import local_path
from tf_instdisc.runs.bank import Bank
from tf_instdisc.serving import faiss_index, saved_model, versions
from tf_instdisc.serving.bank_index import decoded
from tf_instdisc.serving.embedding_file import read_columns
from tf_instdisc.serving.options import IndexOptions
from tf_instdisc.serving.partitioned_index import (
    PartitionedIndex,
    build_index,
)
from tf_instdisc.serving.partitions import (
    Probes,
    import_faiss,
    number_for,
)
from tf_instdisc.serving.signatures import neighbors_of

_FACTS = "index.json"
_FAISS = "index.faiss"
_INSTANCES = "instances.npz"
_UNREADABLE = (ValueError, EOFError, zipfile.BadZipFile)


@dataclasses.dataclass(frozen=True)
class Facts:
    """What `index.json` says.

    Attributes:
        kind: One of `INDEX_KINDS`.
        num_rows: Number of rows.
        dim: Length of a row.
        num_neighbors: Number of neighbors that a SavedModel returns, and whose
            recall was measured.
        reads: Partitions or candidates that a search reads; 0 for all rows.
        recall: Fraction of the neighbors of exhaustive search that are found.
        encoder: SHA-256 of `encoder.keras` of the run; empty if it is unknown.
        bank: SHA-256 of `bank.npz` of the run; empty for rows of a file.
    """

    kind: str
    num_rows: int
    dim: int
    num_neighbors: int
    reads: int
    recall: float
    encoder: str = ""
    bank: str = ""


@dataclasses.dataclass(frozen=True)
class OpenedIndex:
    """An index that can be searched.

    Attributes:
        search: Takes float32 `[num_queries, dim]` and the number of
            neighbors, and returns cosines, instance ids and names, each
            `[num_queries, num_neighbors]`.
    """

    facts: Facts
    search: Callable[
        [np.ndarray, int], tuple[np.ndarray, np.ndarray, np.ndarray]
    ]


def read_embeddings(path: str) -> tuple[Bank, str]:
    """Reads the output of `embed_folder` as a bank without labels.

    Args:
        path: A file or directory, as in `read_columns`. Rows are scaled to
            unit length.

    Returns:
        The bank, and the SHA-256 of its encoder, empty if it is unknown.

    Raises:
        UsageError: If the file does not exist, or has other contents.
    """
    path = local_path(path, "embeddings")
    if not os.path.exists(path):
        raise MissingFileError(
            f"`embeddings` must exist. Received: embeddings={path!r}"
        )
    try:
        ids, names, rows, digest = read_columns(path)
        rows = rows.astype(np.float32)
    except (*_UNREADABLE, KeyError, OSError) as error:
        raise UsageError(
            "`embeddings` must be a file written by instdisc embed. Received: "
            f"embeddings={path!r}, which cannot be read ({error})."
        ) from error
    fits = rows.ndim == 2 and len(ids) == len(names) == len(rows)
    if not fits or not np.isfinite(rows).all():
        raise UsageError(
            "`embeddings` must hold one id, one name and one finite embedding "
            f"of each image. Received: embeddings={path!r} with {len(ids)} "
            f"ids, {len(names)} names and embeddings of shape {rows.shape}"
            f"{'' if np.isfinite(rows).all() else ', some not finite'}."
        )
    encoder = ""
    if digest.startswith("encoder "):  # Not of an exported model or a server.
        encoder = digest.removeprefix("encoder ")
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return Bank(rows, ids, names, np.full(len(rows), -1)), encoder


def write_index(
    bank: Bank,
    output: str,
    options: IndexOptions,
    encoder: str = "",
    bank_digest: str = "",
) -> pathlib.Path:
    """Writes the next version of an index, and returns its directory.

    `encoder` and `bank_digest` are `encoder` and `bank` of `Facts`.

    Raises:
        UsageError: If `output` is a file, there are too few rows, or faiss is
            needed and not installed.
    """
    output = local_path(output, "output", "versions")
    if not len(bank.rows):
        raise UsageError(
            "An index needs at least one row. Received: a bank without rows."
        )
    rows = np.ascontiguousarray(bank.rows, np.float32)
    name = os.path.basename(os.path.abspath(output))

    def write(version: pathlib.Path) -> None:
        if options.kind in faiss_index.KINDS:
            probes = _write_faiss(version, bank, rows, options)
        else:
            probes = _write_saved_model(version, bank, name, options)
        facts = Facts(
            kind=options.kind,
            num_rows=rows.shape[0],
            dim=rows.shape[1],
            num_neighbors=options.num_neighbors,
            reads=probes.number,
            recall=round(probes.recall, 4),
            encoder=encoder,
            bank=bank_digest,
        )
        text = json.dumps(dataclasses.asdict(facts), indent=1)
        atomic.write_text(version / _FACTS, text + "\n")

    return versions.write_version(output, write, "output")


def _write_faiss(
    path: pathlib.Path, bank: Bank, rows: np.ndarray, options: IndexOptions
) -> Probes:
    index, probes = faiss_index.build(
        options.kind, rows, options.num_neighbors, options.target_recall
    )
    import_faiss().write_index(index, os.fspath(path / _FAISS))
    with atomic.replacing(path / _INSTANCES) as partial:
        np.savez(partial, instance_ids=bank.instance_ids, names=bank.names)
    return probes


def _write_saved_model(
    path: pathlib.Path, bank: Bank, name: str, options: IndexOptions
) -> Probes:
    size, dim = bank.rows.shape
    num_partitions = 0
    if options.kind == "partitioned":
        num_partitions = options.num_partitions or number_for(size)
    index = build_index(
        bank,
        min(num_partitions, size),
        options.dtype,
        options.target_recall,
        options.num_neighbors,
    )

    @tf.function(
        input_signature=[tf.TensorSpec([None, dim], name="queries")],
        autograph=False,
    )
    def search(queries: tf.Tensor) -> dict[str, tf.Tensor]:
        return neighbors_of(index, queries, options.num_neighbors)

    variables = tf.Module(name="index")
    variables.bank = index
    functions = {"serving_default": search}
    saved_model.save(functions, variables, os.fspath(path), name, (1,))
    if isinstance(index, PartitionedIndex):
        return index.probes
    return Probes(0, options.num_neighbors, 1.0)


def read_facts(directory: pathlib.Path) -> Facts:
    """Reads `index.json` of a version.

    Raises:
        UsageError: If there is none, or it cannot be read.
    """
    try:
        text = (directory / _FACTS).read_text("utf-8")
    except OSError as error:
        raise MissingFileError(
            "`index` must be a directory written by instdisc index. "
            f"Received: index={os.fspath(directory)!r}"
        ) from error
    try:
        return Facts(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise UsageError(
            "`index` must be written by this version of instdisc index. "
            f"Received: index={os.fspath(directory)!r}, whose {_FACTS} cannot "
            "be read. Build it again."
        ) from error


def open_index(path: str) -> OpenedIndex:
    """Opens the newest version of an index, or a version.

    Raises:
        UsageError: If there is none.
    """
    directory = versions.newest_version(path, "index", _FACTS)
    facts = read_facts(directory)
    if facts.kind in faiss_index.KINDS:
        return OpenedIndex(facts, _faiss_search(directory))
    return OpenedIndex(facts, _saved_model_search(directory, facts))


def _faiss_search(directory: pathlib.Path) -> Callable:
    index = import_faiss().read_index(os.fspath(directory / _FAISS))
    with np.load(directory / _INSTANCES) as file:
        ids, names = file["instance_ids"], file["names"]

    def search(
        queries: np.ndarray, num_neighbors: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scores, positions = faiss_index.search(index, queries, num_neighbors)
        return scores, ids[positions], names[positions]

    return search


def _saved_model_search(directory: pathlib.Path, facts: Facts) -> Callable:
    model = versions.load(directory)

    def search(
        queries: np.ndarray, num_neighbors: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if min(num_neighbors, facts.num_rows) > facts.num_neighbors:
            raise UsageError(
                f"This index returns {facts.num_neighbors} neighbors. "
                f"Received: num_neighbors={num_neighbors}, including the query "
                "itself if it is in the index. Build it with a larger "
                "`num_neighbors`."
            )
        found = model.signatures["serving_default"](
            queries=tf.constant(queries, tf.float32)
        )
        scores, ids, names = (
            found[name].numpy()[:, :num_neighbors]
            for name in ("scores", "instance_ids", "names")
        )
        return scores, ids, decoded(names)

    return search
