"""The neighbor grid: each query and its neighbors, as in the paper."""

import numpy as np
from PIL import Image, ImageDraw

from tf_instdisc import atomic
from tf_instdisc.retrieval.neighbor_rows import RIGHT, UNKNOWN, WRONG, Row
from tf_instdisc.retrieval.pages import captions

PICTURE = 64
"""Side of a picture, in pixels."""
MAX_ROWS = 100
"""The most queries in a PNG file; viewers refuse pictures of any height."""
_FRAME_COLORS = {
    RIGHT: (26, 150, 65),
    WRONG: (215, 48, 39),
    UNKNOWN: (150, 150, 150),
}
_FRAME = 3  # pixels
_GAP = 4


def draw(rows: list[Row]) -> np.ndarray:
    """Draws a grid whose frames show matching classes.

    A query is captioned with its class, or else with its name, and a neighbor
    with its cosine.

    Args:
        rows: At least one query, with pictures; all have the same number of
            neighbors.

    Returns:
        uint8 `[height, width, 3]`.
    """
    side = len(np.asarray(rows[0].image))
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
        image: np.ndarray | None,
        x: int,
        y: int,
        color: str | tuple[int, int, int],
        caption: str,
    ) -> None:
        painter.rectangle((x, y, x + cell - 1, y + cell - 1), fill=color)
        picture = Image.fromarray(np.asarray(image))
        canvas.paste(picture, (x + _FRAME, y + _FRAME))
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
    """Draws a grid of the first `MAX_ROWS` rows into a PNG file."""
    with atomic.replacing(path) as partial:
        grid = Image.fromarray(draw(rows[:MAX_ROWS]))
        grid.save(partial, "PNG", optimize=True)
