"""Export"""

from absl import flags

from tf_instdisc import choices
from tf_instdisc.cli import path_flags

EXPORT_DIR = path_flags.define_path(
    "export_dir",
    None,
    "Directory of the model, such as models/NAME; the next numbered version "
    "is written into it.",
)
BANK = flags.DEFINE_bool(
    "bank", True, "Take the memory bank along, for the neighbours."
)
BANK_DTYPE = flags.DEFINE_enum(
    "bank_dtype",
    "float32",
    choices.INDEX_DTYPES,
    "How the bank is stored; int8 takes a quarter of float32.",
)
PRECISION = flags.DEFINE_enum(
    "precision",
    "float32",
    choices.EXPORT_PRECISIONS,
    "What the encoder computes in.",
)
IMAGE_DTYPE = flags.DEFINE_enum(
    "image_dtype",
    "uint8",
    choices.IMAGE_DTYPES,
    "Type of the images that serving_default takes.",
)
NUM_NEIGHBORS = flags.DEFINE_integer(
    "num_neighbors", 10, "Neighbours that are given.", lower_bound=1
)
NUM_VOTES = flags.DEFINE_integer(
    "num_votes",
    None,
    "Neighbours that vote on the class; by default as many as in the run's "
    "kNN.",
    lower_bound=1,
)
BAD_BYTES = flags.DEFINE_enum(
    "bad_bytes",
    "mask",
    choices.BAD_BYTES,
    "What bytes do that are no image: mask gives a zero embedding and valid = "
    "false, error fails their request.",
)
MAX_PIXELS = flags.DEFINE_integer(
    "max_pixels",
    50_000_000,
    "Images with more pixels are refused before they are decoded.",
    lower_bound=1,
)
BATCH_SIZES = flags.DEFINE_list(
    "batch_sizes",
    "1,2,4,8,16,32",
    "Rising batch sizes that the server may form; each one is warmed up.",
)
TFLITE = flags.DEFINE_multi_enum(
    "tflite",
    [],
    choices.TFLITE,
    "Also write the encoder for TFLite; may be given twice.",
)
CALIBRATION_IMAGES = path_flags.define_path(
    "calibration_images",
    None,
    "Folder of some hundred images for --tflite=int8.",
)

flags.mark_flag_as_required("export_dir")


@flags.validator(
    "batch_sizes", "--batch_sizes must be positive, rising integers."
)
def _rising(sizes):
    if not all(size.isdecimal() for size in sizes):
        return False
    numbers = [int(size) for size in sizes]
    return numbers == sorted(set(numbers)) and bool(numbers) and numbers[0] > 0


@flags.multi_flags_validator(
    ["tflite", "calibration_images"],
    "--tflite=int8 needs --calibration_images.",
)
def _has_calibration(values):
    return "int8" not in values["tflite"] or bool(values["calibration_images"])
