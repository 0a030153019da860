"""Detection"""

from typing import TYPE_CHECKING

from absl import flags

from tf_instdisc.cli import path_flags

if TYPE_CHECKING:
    from tf_instdisc.evaluation.detection import DetectionOptions

DETECTION_DATASET = flags.DEFINE_string(
    "detection_dataset", None, "TFDS data set with boxes, such as voc/2007."
)
DETECTION_IMAGES = path_flags.define_path(
    "detection_images",
    None,
    "Folder with Annotations, ImageSets and JPEGImages, in place of "
    "--detection_dataset.",
)
DETECTION_TRAIN_SPLIT = flags.DEFINE_string(
    "detection_train_split",
    None,
    "Split to train detectors on; by default train+validation of a data set, "
    "trainval of a folder.",
)
DETECTION_TEST_SPLIT = flags.DEFINE_string(
    "detection_test_split", "test", "Split to measure detectors on."
)
DETECTION_DATA_DIR = path_flags.define_path(
    "detection_data_dir",
    None,
    "Where TFDS keeps --detection_dataset; by default --data_dir, or the "
    "run's.",
)
DETECTION_IMAGE_KEY = flags.DEFINE_string(
    "detection_image_key",
    "image",
    "Feature of --detection_dataset that holds the images.",
)
DETECTION_LABEL_KEY = flags.DEFINE_string(
    "detection_label_key",
    "label",
    "Class in the feature 'objects' of --detection_dataset.",
)
DETECTION_IMAGE_SIZE = flags.DEFINE_integer(
    "detection_image_size",
    512,
    "Side in pixels to which images are resized; a multiple of 32.",
    lower_bound=32,
)
DETECTION_EPOCHS = flags.DEFINE_integer(
    "detection_epochs", 12, "Epochs of a detector.", lower_bound=1
)
DETECTION_BATCH_SIZE = flags.DEFINE_integer(
    "detection_batch_size", 16, "Images in a batch.", lower_bound=1
)
DETECTION_LEARNING_RATE = flags.DEFINE_float(
    "detection_learning_rate",
    1e-3,
    "Highest learning rate of a detector (AdamW; it falls along a cosine).",
    lower_bound=1e-9,
)
FROZEN_LAYERS = flags.DEFINE_list(
    "frozen_layers",
    [],
    "Layers of the trained encoder that the detector leaves as they are, by "
    "how their names begin: conv1,conv2. Not from scratch.",
)
FROZEN_BATCH_NORM = flags.DEFINE_bool(
    "frozen_batch_norm",
    False,
    "Leave batch norm of the trained encoder as it is. Not from scratch.",
)
DETECTION_HEAD_FILTERS = flags.DEFINE_integer(
    "detection_head_filters",
    256,
    "Filters of pyramid and heads; 256 is RetinaNet's.",
    lower_bound=1,
)
DETECTION_ANCHOR_SCALE = flags.DEFINE_float(
    "detection_anchor_scale",
    4.0,
    "Side of the smallest anchors of a level, in its strides; 4 is "
    "RetinaNet's, small objects need less.",
    lower_bound=0.1,
)
DETECTION_SEED = flags.DEFINE_integer(
    "detection_seed",
    0,
    "Seeds new weights, the order of images and flips.",
    lower_bound=0,
    upper_bound=2**31 - 1,
)


def options() -> "DetectionOptions":
    """What the flags say.

    Raises:
        ValueError: If not one of --detection_dataset and --detection_images
            is given.
    """
    from tf_instdisc.evaluation.detection import DetectionOptions

    return DetectionOptions(
        dataset=DETECTION_DATASET.value,
        images=DETECTION_IMAGES.value,
        train_split=DETECTION_TRAIN_SPLIT.value,
        test_split=DETECTION_TEST_SPLIT.value,
        data_dir=DETECTION_DATA_DIR.value,
        image_key=DETECTION_IMAGE_KEY.value,
        label_key=DETECTION_LABEL_KEY.value,
        image_size=DETECTION_IMAGE_SIZE.value,
        epochs=DETECTION_EPOCHS.value,
        batch_size=DETECTION_BATCH_SIZE.value,
        learning_rate=DETECTION_LEARNING_RATE.value,
        frozen_layers=tuple(FROZEN_LAYERS.value),
        frozen_batch_norm=FROZEN_BATCH_NORM.value,
        head_filters=DETECTION_HEAD_FILTERS.value,
        anchor_scale=DETECTION_ANCHOR_SCALE.value,
        seed=DETECTION_SEED.value,
    )
