"""Protocols and images"""

from absl import flags

from tf_instdisc import choices
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
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where TFDS keeps its data, if it is not where it was."
)
IMAGES = flags.DEFINE_string(
    "images", None, "Folder of images to learn from, in place of the run's."
)
TEST_IMAGES = flags.DEFINE_string(
    "test_images", None, "Folder of images to test on, in place of the run's."
)

OVERRIDES = (
    "dataset",
    "split",
    "test_split",
    "data_dir",
    "images",
    "test_images",
)


@flags.validator("protocol", f"Give some of {', '.join(choices.PROTOCOLS)}.")
def _known(protocols):
    return bool(protocols) and set(protocols) <= set(choices.PROTOCOLS)


flags.mark_flag_as_required(finished_run.RUN_DIR.name)
