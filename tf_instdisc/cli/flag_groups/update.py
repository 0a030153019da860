"""Update"""

from absl import flags

IMAGES = flags.DEFINE_string(
    "images", None, "The folder of images as it is now."
)
REREAD = flags.DEFINE_bool(
    "reread", False, "Encode images that stayed as they were anew too."
)
OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Run directory to write, missing or empty; by default --run_dir itself "
    "is updated.",
)

flags.mark_flag_as_required("images")
