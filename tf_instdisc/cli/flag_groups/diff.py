"""Comparison"""

from absl import flags

from tf_instdisc.cli import path_flags

NUM_NEIGHBORS = flags.DEFINE_integer(
    "num_neighbors", 20, "Neighbours that are compared.", lower_bound=1
)
MAX_IMAGES = flags.DEFINE_integer(
    "max_images",
    10_000,
    "Of more common images, so many are drawn at random.",
    lower_bound=2,
)
OUTPUT = path_flags.define_path(
    "output", None, "TSV to write, with a line for each image."
)
SEED = flags.DEFINE_integer("seed", 0, "Seeds the draw.", lower_bound=0)
