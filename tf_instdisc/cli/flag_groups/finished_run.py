"""Finished run"""

from absl import flags

RUN_DIR = flags.DEFINE_string(
    "run_dir", None, "Directory of a finished run of instdisc-train."
)
SEED = flags.DEFINE_integer(
    "seed", 0, "Seeds what is drawn at random.", lower_bound=0
)

flags.mark_flag_as_required("run_dir")
