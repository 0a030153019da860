"""Update"""

from absl import flags

from tf_instdisc.cli import path_flags
from tf_instdisc.cli.flag_groups import finished_run

IMAGES = path_flags.define_path(
    "images", None, "The folder of images as it is now."
)
REREAD = flags.DEFINE_bool(
    "reread", False, "Encode images that stayed as they were anew too."
)
OUTPUT = path_flags.define_path(
    "output",
    None,
    "Run directory to write, missing, empty, or from an earlier update of the "
    "same run; by default --run_dir itself is updated.",
)

flags.mark_flag_as_required("images")

flags.mark_flag_as_required(finished_run.RUN_DIR.name)
