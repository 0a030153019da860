"""instdisc-neighbors: shows the training images nearest to others."""

from tf_instdisc.cli.flag_groups import finished_run, moved_images, neighbors
from tf_instdisc.cli.launch import launch
from tf_instdisc.text import shown

GROUPS = (finished_run, neighbors, moved_images)

_SUMMARY = """
Shows the nearest training images of a photograph, a folder or random rows.

  instdisc-neighbors --run_dir=runs/digits --query=random:16
  instdisc-neighbors --run_dir=runs/photos --query=cat.jpg --format=tsv
"""


def main() -> None:
    """Entry point of `instdisc-neighbors`."""
    launch(_neighbors, _SUMMARY, GROUPS)


def _neighbors() -> None:
    from tf_instdisc.retrieval import queries as search
    from tf_instdisc.retrieval.pages import grid, lines, pages
    from tf_instdisc.runs import images as run_images
    from tf_instdisc.runs import opening

    run = opening.load(finished_run.RUN_DIR.value or "")
    images = run_images.open_images(run, moved_images.overrides())
    size = neighbors.PICTURE_SIZE.value
    queries = search.parse_query(
        run, images, neighbors.QUERY.value, size, neighbors.SEED.value
    )
    found = search.nearest(queries, images.bank, neighbors.NUM_NEIGHBORS.value)
    rows = grid.grid_rows(queries, found, images)
    if neighbors.FORMAT.value != "files":
        is_tsv = neighbors.FORMAT.value == "tsv"
        text = lines.neighbors_tsv if is_tsv else lines.neighbors_json
        print(text(rows), end="")
        return
    for path in neighbors.OUTPUT.value:
        if path.endswith(".png"):
            grid.save_png(path, rows)
        else:
            pages.write(
                path, pages.neighbor_page(rows, run.path.resolve().name)
            )
        print(shown(str(path)))


if __name__ == "__main__":
    main()
