"""Neighbours"""

from absl import flags

from tf_instdisc.cli import path_flags
from tf_instdisc.cli.flag_groups import finished_run

QUERY = path_flags.define_path(
    "query",
    "random:16",
    "An image, a folder of images, or random:COUNT training images.",
)
NUM_NEIGHBORS = flags.DEFINE_integer(
    "num_neighbors", 10, "Neighbours of each query.", lower_bound=1
)
FORMAT = flags.DEFINE_enum(
    "format",
    "files",
    ["files", "tsv", "json"],
    "files: writes --output; tsv, json: prints lines, without pictures.",
)
OUTPUT = path_flags.define_paths(
    "output",
    ["neighbors.png", "neighbors.html"],
    "Files to write: .png, .html or both.",
)
PICTURE_SIZE = flags.DEFINE_integer(
    "picture_size",
    64,
    "Side of a picture in pixels.",
    lower_bound=8,
    upper_bound=512,
)


@flags.validator("output", "Give files that end with .png or .html.")
def _known_suffixes(paths):
    return all(path.endswith((".png", ".html")) for path in paths)


SEED = flags.DEFINE_integer(
    "seed", 0, "Seeds what is drawn at random.", lower_bound=0
)

flags.mark_flag_as_required(finished_run.RUN_DIR.name)
