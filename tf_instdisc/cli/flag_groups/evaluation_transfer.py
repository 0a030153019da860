"""Transfer: the other data set"""

from absl import flags

from tf_instdisc.cli import path_flags
from tf_instdisc.cli.flag_groups import evaluation

DATASET = flags.DEFINE_string(
    "transfer_dataset", None, "TFDS data set to learn from and to test on."
)
SPLIT = flags.DEFINE_string(
    "transfer_split", None, "Its split to learn from; train by default."
)
TEST_SPLIT = flags.DEFINE_string(
    "transfer_test_split", None, "Its split to test on; test by default."
)
DATA_DIR = path_flags.define_path(
    "transfer_data_dir",
    None,
    "Where TFDS keeps it; by default --data_dir, or the run's.",
)
IMAGE_KEY = flags.DEFINE_string(
    "transfer_image_key", None, "Its feature that holds the images."
)
LABEL_KEY = flags.DEFINE_string(
    "transfer_label_key", None, "Its feature that holds the labels."
)
IMAGES = path_flags.define_path(
    "transfer_images", None, "Folder of images to learn from."
)
TEST_IMAGES = path_flags.define_path(
    "transfer_test_images", None, "Folder of images to test on."
)

NAMES = (
    "dataset",
    "split",
    "test_split",
    "data_dir",
    "image_key",
    "label_key",
    "images",
    "test_images",
)


@flags.multi_flags_validator(
    ["transfer_dataset", "transfer_images", evaluation.PROTOCOL.name],
    "--protocol=transfer goes with --transfer_dataset or --transfer_images, "
    "and they with it.",
)
def _one_source(values):
    sources = [values["transfer_dataset"], values["transfer_images"]]
    given = sum(source is not None for source in sources)
    return given == ("transfer" in values[evaluation.PROTOCOL.name])
