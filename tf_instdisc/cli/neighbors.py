"""Shows the nearest training images of an image, a folder or random rows.

Examples:
  instdisc-neighbors --run_dir=runs/digits --query=random:16
  instdisc-neighbors --run_dir=runs/photos --query=cat.jpg --format=tsv
"""

import dataclasses
import functools
from typing import TYPE_CHECKING

from tf_instdisc.cli.options import (
    FinishedRun,
    MovedImages,
    make_folders,
    require_endings,
    require_file,
)
from tf_instdisc.config.fields import Settings, setting
from tf_instdisc.errors import UsageError
from tf_instdisc.text import shown

if TYPE_CHECKING:
    import numpy as np

    from tf_instdisc.retrieval.queries import Neighbors, Queries
    from tf_instdisc.runs.bank import Bank
    from tf_instdisc.runs.directory import RunDirectory
    from tf_instdisc.runs.images import RunImages
    from tf_instdisc.serving.index_directory import OpenedIndex


@dataclasses.dataclass(frozen=True)
class NeighborsOptions(Settings):
    """Neighbors"""

    query: str = setting(
        "random:16",
        "An image, a folder of images, or random:COUNT training images.",
        is_path=True,
    )
    index: str | None = setting(
        None,
        "Directory written by instdisc-index to search instead of the run's "
        "bank. The rows of a file are shown without pictures unless --images "
        "names their folder.",
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
        "Files to write: .png, which shows at most 100 queries, .html or both.",
        is_filled=True,
        is_path=True,
    )
    seed: int = setting(0, "Random seed of the draw.", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_endings("output", self.output, (".png", ".html"))
        for path in self.output:
            require_file("output", path)


SETTINGS = [FinishedRun, NeighborsOptions, MovedImages]


def main(
    finished: FinishedRun, options: NeighborsOptions, moved: MovedImages
) -> None:
    """Writes or prints the neighbors."""
    if options.format == "files":
        # Before the search, as these need the extra `report`.
        from tf_instdisc.retrieval.pages import grid, pages

        make_folders(*options.output)
    from tf_instdisc.retrieval import neighbor_rows
    from tf_instdisc.retrieval import queries as search
    from tf_instdisc.runs import images as run_images

    run = finished.load()
    index = None
    if options.index:
        from tf_instdisc.serving import index_directory

        index = index_directory.open_index(options.index)
    is_of_file = index is not None and not index.facts.encoder
    overrides = moved.overrides()
    if is_of_file:
        overrides.pop("images", None)  # They are those of the index.
    images = run_images.open_images(run, overrides)
    if index is not None:
        _require_same_encoder(options.index or "", index, run, images.bank)
    queries = search.parse_query(run, images, options.query, options.seed)
    if index is None:
        found = search.nearest(queries, images.bank, options.num_neighbors)
    elif is_of_file:
        found, images = _search_file(
            index, images, queries, options.num_neighbors, moved.images
        )
    else:
        found = search.nearest(
            queries,
            images.bank,
            options.num_neighbors,
            functools.partial(_search_bank, index, images.bank),
        )
    if options.format != "files":
        lines = neighbor_rows.neighbors_json
        if options.format == "tsv":
            lines = neighbor_rows.neighbors_tsv
        rows = neighbor_rows.grid_rows(queries, found, images)
        print(lines(rows), end="")
        return
    rows = neighbor_rows.grid_rows(queries, found, images, grid.PICTURE)
    for path in options.output:
        if path.endswith(".png"):
            grid.save_png(path, rows)
            if len(rows) > grid.MAX_ROWS:
                print(
                    f"{shown(str(path))} shows the first {grid.MAX_ROWS} of "
                    f"{len(rows):,} queries"
                )
        else:
            pages.write(
                path, pages.neighbor_page(rows, run.path.resolve().name)
            )
        print(shown(str(path)))


def _require_same_encoder(
    path: str, index: "OpenedIndex", run: "RunDirectory", bank: "Bank"
) -> None:
    facts = index.facts
    if facts.dim != bank.rows.shape[1] or (
        facts.encoder and facts.encoder != run.encoder_digest()
    ):
        raise UsageError(
            "`index` must have rows of the run's encoder. Received: "
            f"index={path!r} of another encoder. Build it again."
        )
    # An index of an earlier version does not say which rows it has.
    if facts.bank and facts.bank != run.bank_digest():
        raise UsageError(
            "`index` must have the run's current rows. Received: "
            f"index={path!r}, which was built before the run was updated. "
            "Build it again."
        )


def _search_bank(
    index: "OpenedIndex",
    bank: "Bank",
    embeddings: "np.ndarray",
    num_neighbors: int,
) -> tuple["np.ndarray", "np.ndarray"]:
    """Searches an index of a run, and returns positions in its bank."""
    import numpy as np

    scores, ids, _ = index.search(embeddings, num_neighbors)
    positions = np.searchsorted(bank.instance_ids, ids)
    positions = np.minimum(positions, len(bank.instance_ids) - 1)
    if (bank.instance_ids[positions] != ids).any():
        raise UsageError(
            "`index` must have the images of the run's bank. Received: an "
            "index with others. Build it again."
        )
    return scores, positions


def _search_file(
    index: "OpenedIndex",
    images: "RunImages",
    queries: "Queries",
    num_neighbors: int,
    folder: str | None,
) -> tuple["Neighbors", "RunImages"]:
    """Searches an index of a file, and returns the images that are found."""
    import numpy as np

    from tf_instdisc.config import DataConfig, RunConfig
    from tf_instdisc.retrieval.queries import Neighbors
    from tf_instdisc.runs.bank import Bank
    from tf_instdisc.runs.images import RunImages

    scores, ids, names = index.search(queries.images.bank.rows, num_neighbors)
    found = Bank(
        rows=np.empty([ids.size, 0], np.float32),
        instance_ids=ids.ravel(),
        names=names.ravel(),
        labels=np.full(ids.size, -1),
        class_names=images.bank.class_names,
    )
    return (
        Neighbors(scores, np.arange(ids.size).reshape(ids.shape)),
        RunImages(found, RunConfig(DataConfig(images=folder))),
    )
