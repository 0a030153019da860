"""Near-duplicates"""

from absl import flags

from tf_instdisc.cli import path_flags
from tf_instdisc.cli.flag_groups import finished_run

THRESHOLD = flags.DEFINE_float(
    "threshold",
    None,
    "Cosine from which on two images are near-duplicates. By default each pair "
    "is compared with the other neighbors of its images, and by its pixels.",
    lower_bound=0.01,
    upper_bound=1.0,
)
FOLDERS = path_flags.define_paths(
    "folders",
    [],
    "A folder to search in place of the training images, or two folders, "
    "A,B, to compare with each other.",
)
PIXELS = flags.DEFINE_bool(
    "pixels",
    True,
    "Compare small pictures of the candidates. --nopixels goes by the "
    "embeddings alone: that needs no images, but finds less.",
)
flags.DEFINE_alias("encode", "pixels")  # --noencode needed no images either.
MAX_PAIRS = flags.DEFINE_integer(
    "max_pairs", 1_000_000, "Pairs at which the search stops.", lower_bound=1
)
OUTPUT = path_flags.define_paths(
    "output",
    ["duplicates.tsv", "duplicates.html"],
    "Files to write: .tsv, .html or both; - prints TSV.",
)
PICTURE_SIZE = flags.DEFINE_integer(
    "picture_size",
    64,
    "Side of a picture in pixels.",
    lower_bound=8,
    upper_bound=512,
)


@flags.validator("folders", "Give one folder, or two with a comma.")
def _one_or_two(folders):
    return len(folders) <= 2


@flags.validator("output", "Give files that end with .tsv or .html, or -.")
def _known_suffixes(paths):
    return all(
        path == "-" or path.endswith((".tsv", ".html")) for path in paths
    )


flags.mark_flag_as_required(finished_run.RUN_DIR.name)
