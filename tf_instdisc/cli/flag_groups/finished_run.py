"""Trained run"""

from absl import flags

RUN_DIR = flags.DEFINE_string(
    "run_dir", None, "Directory of a run that has finished."
)
