"""Protocols and images"""

from absl import flags

from tf_instdisc import choices
from tf_instdisc.cli import path_flags
from tf_instdisc.cli.flag_groups import finished_run

PROTOCOL = flags.DEFINE_list(
    "protocol", ["knn"], f"What to measure: {', '.join(choices.PROTOCOLS)}."
)
BASELINES = flags.DEFINE_bool(
    "baselines", False, "knn, linear: measure the untrained network too."
)
SEED = flags.DEFINE_integer(
    "seed",
    0,
    "Seeds weights, order and what is drawn.",
    lower_bound=0,
    upper_bound=2**31 - 1,
)
DATASET = flags.DEFINE_string(
    "dataset", None, "TFDS data set, in place of the run's."
)
SPLIT = flags.DEFINE_string(
    "split", None, "Split to learn from, in place of the run's."
)
TEST_SPLIT = flags.DEFINE_string(
    "test_split", None, "Split to test on, in place of the run's."
)
DATA_DIR = path_flags.define_path(
    "data_dir", None, "Where TFDS keeps its data, if it is not where it was."
)
IMAGE_KEY = flags.DEFINE_string(
    "image_key", None, "Feature that holds the images, in place of the run's."
)
LABEL_KEY = flags.DEFINE_string(
    "label_key", None, "Feature that holds the labels, in place of the run's."
)
CACHE = flags.DEFINE_enum(
    "cache",
    None,
    choices.CACHES,
    "Whether a TFDS data set is decoded into memory, in place of the run's.",
)
BAD_IMAGES = flags.DEFINE_enum(
    "bad_images",
    None,
    choices.BAD_IMAGES,
    "What to do if files in a folder cannot be read, in place of the run's.",
)
IMAGES = path_flags.define_path(
    "images", None, "Folder of images to learn from, in place of the run's."
)
TEST_IMAGES = path_flags.define_path(
    "test_images", None, "Folder of images to test on, in place of the run's."
)

OVERRIDES = (
    "dataset",
    "split",
    "test_split",
    "data_dir",
    "image_key",
    "label_key",
    "cache",
    "bad_images",
    "images",
    "test_images",
)


@flags.validator("protocol", f"Give some of {', '.join(choices.PROTOCOLS)}.")
def _known(protocols):
    return bool(protocols) and set(protocols) <= set(choices.PROTOCOLS)


flags.mark_flag_as_required(finished_run.RUN_DIR.name)
