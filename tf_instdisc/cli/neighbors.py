"""instdisc-neighbors: shows the nearest training images of queries."""

import dataclasses

from tf_instdisc.cli.launch import launch
from tf_instdisc.cli.options import FinishedRun, MovedImages, require_endings
from tf_instdisc.config.fields import check, setting
from tf_instdisc.text import shown

_SUMMARY = """
Shows the nearest training images of an image, a folder or random rows.

  instdisc-neighbors --run_dir=runs/digits --query=random:16
  instdisc-neighbors --run_dir=runs/photos --query=cat.jpg --format=tsv
"""


@dataclasses.dataclass(frozen=True)
class NeighborsOptions:
    """Neighbors"""

    query: str = setting(
        "random:16",
        "An image, a folder of images, or random:COUNT training images.",
        is_path=True,
    )
    num_neighbors: int = setting(
        10, "Number of neighbors of each query.", least=1
    )
    format: str = setting(
        "files",
        "files: writes --output; tsv, json: prints lines without pictures.",
        choices=("files", "tsv", "json"),
    )
    output: tuple[str, ...] = setting(
        ("neighbors.png", "neighbors.html"),
        "Files to write: .png, .html or both.",
        is_path=True,
    )
    picture_size: int = setting(
        64, "Side of a picture in pixels.", least=8, most=512
    )
    seed: int = setting(0, "Random seed of the draw.", least=0)

    def __post_init__(self) -> None:
        check(self)
        require_endings("output", self.output, (".png", ".html"))


SETTINGS = [FinishedRun, NeighborsOptions, MovedImages]


def main() -> None:
    """Entry point of `instdisc-neighbors`."""
    launch(_neighbors, _SUMMARY, SETTINGS)


def _neighbors(
    finished: FinishedRun, options: NeighborsOptions, moved: MovedImages
) -> None:
    if options.format == "files":
        # Before the search, as these need the extra `report`.
        from tf_instdisc.retrieval.pages import grid, pages

    from tf_instdisc.retrieval import neighbor_rows
    from tf_instdisc.retrieval import queries as search
    from tf_instdisc.runs import images as run_images

    run = finished.load()
    images = run_images.open_images(run, moved.overrides())
    queries = search.parse_query(
        run, images, options.query, options.picture_size, options.seed
    )
    found = search.nearest(queries, images.bank, options.num_neighbors)
    rows = neighbor_rows.grid_rows(queries, found, images)
    if options.format != "files":
        lines = neighbor_rows.neighbors_json
        if options.format == "tsv":
            lines = neighbor_rows.neighbors_tsv
        print(lines(rows), end="")
        return
    for path in options.output:
        if path.endswith(".png"):
            grid.save_png(path, rows)
        else:
            pages.write(
                path, pages.neighbor_page(rows, run.path.resolve().name)
            )
        print(shown(str(path)))


if __name__ == "__main__":
    main()
