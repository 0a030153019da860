"""Each query with its neighbors: pictures, names and labels, or lines."""

import dataclasses
import json
import pathlib

import numpy as np

from tf_instdisc.paths import is_url
from tf_instdisc.retrieval.queries import Neighbors, Queries
from tf_instdisc.runs.bank import Bank
from tf_instdisc.runs.images import RunImages
from tf_instdisc.text import tsv

RIGHT = "right"
WRONG = "wrong"
UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One neighbor.

    Attributes:
        image: uint8 `[size, size, 3]`; None if no pictures are read.
        score: Cosine with the query.
        label: Name of its class; empty if there is none.
        match: `RIGHT` if it has the class of the query, else `WRONG`;
            `UNKNOWN` without labels.
        link: Address of its file; empty if it is part of a TFDS dataset.
    """

    image: np.ndarray | None
    name: str
    instance_id: int
    score: float
    label: str
    match: str
    link: str


@dataclasses.dataclass(frozen=True)
class Row:
    """A query and its neighbors."""

    image: np.ndarray | None
    name: str
    label: str
    link: str
    cells: list[Cell]


def grid_rows(
    queries: Queries,
    neighbors: Neighbors,
    images: RunImages,
    size: int | None = None,
) -> list[Row]:
    """Combines the results of a search with pictures, names and labels.

    Args:
        neighbors: Positions in the bank of `images`.
        size: Side of the pictures in pixels; None reads no pictures.
    """
    asked, bank = queries.images.bank, images.bank
    own = _pictures(queries.images, np.arange(len(asked.names)), size)
    pictures = _pictures(images, neighbors.positions, size)
    rows = []
    for i, (name, label) in enumerate(
        zip(asked.names, asked.labels, strict=True)
    ):
        cells = [
            Cell(
                image=pictures[i, j],
                name=str(bank.names[position]),
                instance_id=int(bank.instance_ids[position]),
                score=float(neighbors.scores[i, j]),
                label=class_name(bank, bank.labels[position]),
                match=_match(label, bank.labels[position]),
                link=_link(images.config.data.images, bank.names[position]),
            )
            for j, position in enumerate(neighbors.positions[i])
        ]
        rows.append(
            Row(
                own[i],
                str(name),
                class_name(asked, label),
                _link(queries.folder, name),
                cells,
            )
        )
    return rows


def _pictures(
    images: RunImages, positions: np.ndarray, size: int | None
) -> np.ndarray:
    """Returns `[..., size, size, 3]`; without a size, None for each."""
    if size is None:
        return np.full(positions.shape, None)
    pictures, _ = images.read(positions.ravel(), size)
    return pictures.reshape(*positions.shape, size, size, 3)


def class_name(bank: Bank, label: int) -> str:
    """Returns the name of a label; empty if there is none."""
    return bank.class_names[label] if label >= 0 else ""


def _link(folder: str | None, name: str) -> str:
    if not folder:
        return ""
    if is_url(folder):
        return f"{folder}/{name}"
    return pathlib.Path(folder, str(name)).absolute().as_uri()


def _match(query_label: int, label: int) -> str:
    if query_label < 0 or label < 0:
        return UNKNOWN
    return RIGHT if query_label == label else WRONG


def neighbors_tsv(rows: list[Row]) -> str:
    """Returns one line for each neighbor."""
    header = (
        "query",
        "query_label",
        "rank",
        "instance_id",
        "name",
        "label",
        "score",
    )
    return tsv(
        header,
        (
            (
                row.name,
                row.label,
                rank,
                cell.instance_id,
                cell.name,
                cell.label,
                f"{cell.score:.6f}",
            )
            for row in rows
            for rank, cell in enumerate(row.cells, start=1)
        ),
    )


def neighbors_json(rows: list[Row]) -> str:
    """Returns one line for each query, a JSON object in ASCII."""
    return "".join(
        json.dumps(
            {
                "query": row.name,
                "label": row.label or None,
                "neighbors": [
                    {
                        "instance_id": cell.instance_id,
                        "name": cell.name,
                        "label": cell.label or None,
                        "score": round(cell.score, 6),
                    }
                    for cell in row.cells
                ],
            }
        )
        + "\n"
        for row in rows
    )
