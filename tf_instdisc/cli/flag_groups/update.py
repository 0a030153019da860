"""Update"""

from absl import flags

from tf_instdisc.cli.flag_groups import finished_run

IMAGES = flags.DEFINE_string(
    "images", None, "The folder of images as it is now."
)
REREAD = flags.DEFINE_bool(
    "reread", False, "Encode images that stayed as they were anew too."
)
OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "Run directory to write, missing, empty, or from an earlier update of the "
    "same run; by default --run_dir itself is updated.",
)

flags.mark_flag_as_required("images")

flags.mark_flag_as_required(finished_run.RUN_DIR.name)
