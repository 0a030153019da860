"""Self-contained HTML pages, which need no network."""

import pathlib

import jinja2

from tf_instdisc import atomic
from tf_instdisc.retrieval.neighbor_rows import Row
from tf_instdisc.retrieval.pages.thumbnails import data_uri

_PAGE_SIZE = 20  # Queries.
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
