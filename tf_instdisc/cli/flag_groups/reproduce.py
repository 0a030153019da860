"""Tables"""

from absl import flags

from tf_instdisc.cli import path_flags
from tf_instdisc.evaluation.reproduce import tables

TABLE = flags.DEFINE_multi_enum(
    "table", None, tuple(tables.TABLES), "Tables to make."
)
SCALE = flags.DEFINE_enum(
    "scale",
    "small",
    tuple(tables.SCALES),
    "small: 10,000 images of CIFAR-10 and a narrow network, for two cores. "
    "paper: what the paper trained, for GPUs.",
)
SEEDS = flags.DEFINE_integer(
    "seeds", 1, "Runs of each row, with seeds from 0.", lower_bound=1
)
DATA_DIR = path_flags.define_path(
    "data_dir", None, "Where TFDS keeps its data; by default its own choice."
)
RUNS_DIR = path_flags.define_path(
    "runs_dir",
    "runs/reproduce",
    "Where runs are kept; finished ones are not trained again.",
)
TABLES_DIR = path_flags.define_path(
    "tables_dir", "tables", "Where NAME.md, its plot and its numbers go."
)
RECIPES_DIR = path_flags.define_path(
    "recipes_dir",
    None,
    "Folder of the recipes; by default flags/, or those that were installed.",
)
JOBS = flags.DEFINE_integer(
    "jobs",
    1,
    "Runs at the same time, each with its part of the cores. Two runs on a "
    "core each are faster than one after the other on both.",
    lower_bound=1,
)
ROWS = flags.DEFINE_list(
    "rows",
    None,
    "Only these runs of the table, by the names of their folders, to spread "
    "it over machines: base,nce-512.",
)
TRAIN_FLAG = flags.DEFINE_multi_string(
    "train_flag",
    [],
    "A flag of instdisc-train for every run, such as --train_flag=--epochs=2; "
    "repeatable.",
)

flags.mark_flag_as_required("table")
