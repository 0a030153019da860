"""Self-contained HTML pages, which need no network."""

import base64
import io
import pathlib

import jinja2
import numpy as np
from PIL import Image

from tf_instdisc import atomic
from tf_instdisc.retrieval.neighbor_rows import Row

_PAGE_SIZE = 20  # Queries.


def data_uri(image: np.ndarray, quality: int = 85) -> str:
    """Returns an image as the `data:` URI of a JPEG.

    Args:
        image: uint8 `[height, width, 3]`.
        quality: JPEG quality, 1..95.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, optimize=True)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/jpeg;base64,{encoded}"


def sheet(images: np.ndarray) -> np.ndarray:
    """Arranges pictures row by row in a square.

    Args:
        images: uint8 `[count, size, size, 3]`.

    Returns:
        uint8 `[side * size, side * size, 3]` with `side` = ceil(sqrt(count));
        picture i is in row i // side and column i % side.
    """
    count, size = images.shape[:2]
    side = max(1, int(np.ceil(np.sqrt(count))))
    cells = np.zeros([side * side, size, size, 3], np.uint8)
    cells[:count] = images
    cells = cells.reshape(side, side, size, size, 3)
    return cells.transpose(0, 2, 1, 3, 4).reshape(side * size, side * size, 3)


_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("tf_instdisc.retrieval.pages"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters["data_uri"] = data_uri
_ENVIRONMENT.globals["zip"] = zip


def render(template: str, **values: object) -> str:
    """Fills a template; text is escaped unless it is marked as safe."""
    return _ENVIRONMENT.get_template(template).render(**values)


def write(path: str | pathlib.Path, page: str) -> None:
    """Writes a page as UTF-8, escaping names that are not valid Unicode."""
    atomic.write_text(path, page, errors="backslashreplace")


def neighbor_page(rows: list[Row], run_name: str) -> str:
    """Returns a page with the neighbor grid, a few queries at a time."""
    return render(
        "neighbors.html",
        paged=[
            rows[start : start + _PAGE_SIZE]
            for start in range(0, len(rows), _PAGE_SIZE)
        ],
        page_size=_PAGE_SIZE,
        num_queries=len(rows),
        run_name=run_name,
    )
