"""Images"""

from absl import flags

from tf_instdisc import choices

DATASET = flags.DEFINE_string(
    "dataset", None, "TFDS data set to train on, such as cifar10."
)
SPLIT = flags.DEFINE_string("split", "train", "Split of --dataset to train on.")
TEST_SPLIT = flags.DEFINE_string(
    "test_split",
    "test",
    "Split of --dataset whose images are classified by kNN; empty for none.",
)
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where TFDS keeps its data; TFDS' own choice by default."
)
IMAGES = flags.DEFINE_string(
    "images", None, "Folder of images to train on, in place of --dataset."
)
TEST_IMAGES = flags.DEFINE_string(
    "test_images",
    None,
    "Folder of images that are classified by kNN, with the same class "
    "subfolders as --images.",
)
BAD_IMAGES = flags.DEFINE_enum(
    "bad_images",
    "fail",
    choices.BAD_IMAGES,
    "What to do if files in a folder cannot be read as images.",
)
CACHE = flags.DEFINE_enum(
    "cache",
    "auto",
    choices.CACHES,
    "Whether --dataset is decoded once into memory, or read in every epoch; "
    "auto: into memory if its images have one shape and take up to 2 GiB.",
)
SHUFFLE_BUFFER = flags.DEFINE_integer(
    "shuffle_buffer",
    16_384,
    "Encoded images among which the next is drawn, without a cache.",
    lower_bound=1,
)
IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", 32, "Side of the encoder's input, in pixels.", lower_bound=8
)
TRAIN_IMAGE_SIZE = flags.DEFINE_integer(
    "train_image_size",
    None,
    "Side of the crops in training; --image_size by default. Random crops show "
    "things larger than whole images do, so that three quarters of "
    "--image_size fits them, and is faster (Touvron et al. 2019, arXiv "
    "1906.06423).",
    lower_bound=8,
)
CROP_FRACTION = flags.DEFINE_float(
    "crop_fraction",
    1.0,
    "Evaluation: centre crop as a share of the resized shorter side; 0.875 "
    "is usual on ImageNet.",
    lower_bound=0.1,
    upper_bound=1.0,
)


@flags.multi_flags_validator(
    ["dataset", "images"], "Give either --dataset or --images."
)
def _one_source(values):
    return (values["dataset"] is None) != (values["images"] is None)


@flags.multi_flags_validator(
    ["test_images", "images"],
    "--test_images goes with --images; with --dataset use --test_split.",
)
def _test_images_of_a_folder(values):
    return values["test_images"] is None or values["images"] is not None
