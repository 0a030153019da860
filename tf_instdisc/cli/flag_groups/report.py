"""Report"""

from absl import flags

from tf_instdisc.cli import path_flags
from tf_instdisc.cli.flag_groups import finished_run

OUTPUT = path_flags.define_path(
    "output", None, "File to write; report.html in the run's directory."
)
MAP_POINTS = flags.DEFINE_integer(
    "map_points",
    3000,
    "Images in the map and its pictures, drawn at random from more.",
    lower_bound=10,
)
NUM_NEIGHBORS = flags.DEFINE_integer(
    "num_neighbors", 200, "Neighbours that vote in kNN.", lower_bound=1
)
THRESHOLD = flags.DEFINE_float(
    "threshold",
    None,
    "Cosine from which on two rows are near-duplicates; by default as "
    "instdisc-duplicates decides.",
    lower_bound=0.01,
    upper_bound=1.0,
)
SEED = flags.DEFINE_integer(
    "seed", 0, "Seeds what is drawn at random.", lower_bound=0
)

flags.mark_flag_as_required(finished_run.RUN_DIR.name)
