"""The neighbor grid: each query and its neighbors, as in the paper."""

import dataclasses

import numpy as np
from PIL import Image, ImageDraw

from tf_instdisc import atomic
from tf_instdisc.retrieval.pages import captions
from tf_instdisc.retrieval.queries import Neighbors, Queries
from tf_instdisc.runs.bank import Bank
from tf_instdisc.runs.images import RunImages

RIGHT = "right"
WRONG = "wrong"
UNKNOWN = "unknown"

_FRAME_COLORS = {
    RIGHT: (26, 150, 65),
    WRONG: (215, 48, 39),
    UNKNOWN: (150, 150, 150),
}
_FRAME = 3  # pixels
_GAP = 4


@dataclasses.dataclass(frozen=True)
class Cell:
    """One neighbor.

    Attributes:
        image: uint8 `[size, size, 3]`.
        name: Name of the training image.
        instance_id: Id of the training image.
        score: Cosine with the query.
        label: Name of its class; empty if there is none.
        match: `RIGHT` if it has the class of the query, else `WRONG`;
            `UNKNOWN` without labels.
    """

    image: np.ndarray
    name: str
    instance_id: int
    score: float
    label: str
    match: str


@dataclasses.dataclass(frozen=True)
class Row:
    """A query and its neighbors."""

    image: np.ndarray
    name: str
    label: str
    cells: list[Cell]


def grid_rows(
    queries: Queries, neighbors: Neighbors, images: RunImages
) -> list[Row]:
    """Combines the results of a search with pictures, names and labels."""
    bank = images.bank
    size = queries.images.shape[1]
    pictures, _ = images.read(neighbors.positions.ravel(), size)
    pictures = pictures.reshape(*neighbors.positions.shape, size, size, 3)
    rows = []
    for i, (name, label) in enumerate(
        zip(queries.names, queries.labels, strict=True)
    ):
        cells = [
            Cell(
                image=pictures[i, j],
                name=str(bank.names[position]),
                instance_id=int(bank.instance_ids[position]),
                score=float(neighbors.scores[i, j]),
                label=class_name(bank, bank.labels[position]),
                match=_match(label, bank.labels[position]),
            )
            for j, position in enumerate(neighbors.positions[i])
        ]
        rows.append(
            Row(queries.images[i], name, class_name(bank, label), cells)
        )
    return rows


def class_name(bank: Bank, label: int) -> str:
    """Returns the name of a label; empty if there is none."""
    return bank.class_names[label] if label >= 0 else ""


def _match(query_label: int, label: int) -> str:
    if query_label < 0 or label < 0:
        return UNKNOWN
    return RIGHT if query_label == label else WRONG


def draw(rows: list[Row]) -> np.ndarray:
    """Draws a grid whose frames show matching classes.

    A query is captioned with its class, or else with its name, and a neighbor
    with its cosine.

    Args:
        rows: At least one query; all have the same number of neighbors.

    Returns:
        uint8 `[height, width, 3]`.
    """
    side = rows[0].image.shape[0]
    cell = side + 2 * _FRAME
    step_x, step_y = cell + _GAP, cell + captions.HEIGHT + _GAP
    # A wider gap sets the queries apart.
    first = step_x + 2 * _GAP
    canvas = Image.new(
        "RGB",
        (
            first + len(rows[0].cells) * step_x + _GAP,
            len(rows) * step_y + _GAP,
        ),
        "white",
    )
    painter = ImageDraw.Draw(canvas)

    def paint(
        image: np.ndarray,
        x: int,
        y: int,
        color: str | tuple[int, int, int],
        caption: str,
    ) -> None:
        painter.rectangle((x, y, x + cell - 1, y + cell - 1), fill=color)
        canvas.paste(Image.fromarray(image), (x + _FRAME, y + _FRAME))
        drawn = captions.caption(caption, cell)
        canvas.paste(Image.fromarray(drawn), (x, y + cell))

    for i, row in enumerate(rows):
        y = _GAP + i * step_y
        paint(
            row.image,
            _GAP,
            y,
            "white",
            row.label or row.name.rpartition("/")[2],
        )
        for j, found in enumerate(row.cells):
            x = first + j * step_x
            color = _FRAME_COLORS[found.match]
            paint(found.image, x, y, color, f"{found.score:.2f}")
    return np.asarray(canvas)


def save_png(path: str, rows: list[Row]) -> None:
    """Draws a grid into a PNG file."""
    with atomic.replacing(path) as partial:
        Image.fromarray(draw(rows)).save(partial, "PNG", optimize=True)
