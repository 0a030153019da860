"""Self-contained HTML pages, which need no network."""

import pathlib

import jinja2

from tf_instdisc import atomic
from tf_instdisc.retrieval.neighbor_rows import Row
from tf_instdisc.retrieval.pages.thumbnails import data_uri

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("tf_instdisc.retrieval.pages"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters["data_uri"] = data_uri


def render(template: str, **values: object) -> str:
    """Fills a template; text is escaped unless it is marked as safe."""
    return _ENVIRONMENT.get_template(template).render(**values)


def write(path: str | pathlib.Path, page: str) -> None:
    """Writes a page as UTF-8, escaping names that are not valid Unicode."""
    atomic.write_text(path, page, errors="backslashreplace")


def neighbor_page(rows: list[Row], run_name: str) -> str:
    """Returns a page with the neighbor grid."""
    return render("neighbors.html", rows=rows, run_name=run_name)
