"""Trained run"""

from tf_instdisc.cli import path_flags

RUN_DIR = path_flags.define_path(
    "run_dir", None, "Directory of a run that has finished."
)
