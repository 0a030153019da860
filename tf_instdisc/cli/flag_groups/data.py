"""Images"""

from absl import flags

from tf_instdisc import choices
from tf_instdisc.cli import path_flags

DATASET = flags.DEFINE_string(
    "dataset", None, "TFDS data set to train on, such as cifar10."
)
SPLIT = flags.DEFINE_string("split", "train", "Split of --dataset to train on.")
TEST_SPLIT = flags.DEFINE_string(
    "test_split",
    None,
    "Split of --dataset whose images are classified by kNN; by default test, "
    "or validation if there is no test. Empty for none.",
)
IMAGE_KEY = flags.DEFINE_string(
    "image_key",
    None,
    "Feature of --dataset that holds the images; image by default. A / leads "
    "into nested features.",
)
LABEL_KEY = flags.DEFINE_string(
    "label_key",
    None,
    "Feature of --dataset that holds the labels: a class, a whole number or a "
    "text. By default label, if there is one; empty for no labels.",
)
DATA_DIR = path_flags.define_path(
    "data_dir", None, "Where TFDS keeps its data; TFDS' own choice by default."
)
IMAGES = path_flags.define_path(
    "images", None, "Folder of images to train on, in place of --dataset."
)
TEST_IMAGES = path_flags.define_path(
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


_OF_A_DATASET = {
    "split": "train",
    "test_split": "test",
    "data_dir": None,
    "image_key": None,
    "label_key": None,
}


@flags.multi_flags_validator(
    ["images", *_OF_A_DATASET],
    f"{', '.join(f'--{name}' for name in _OF_A_DATASET)} go with --dataset, "
    "and not with --images.",
)
def _dataset_only(values):
    return values["images"] is None or all(
        values[name] in (None, default)
        for name, default in _OF_A_DATASET.items()
    )


@flags.multi_flags_validator(
    ["test_images", "images"],
    "--test_images goes with --images; with --dataset use --test_split.",
)
def _test_images_of_a_folder(values):
    return values["test_images"] is None or values["images"] is not None
