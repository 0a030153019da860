"""Run and monitoring"""

from absl import flags

RUN_DIR = flags.DEFINE_string(
    "run_dir", None, "Directory of the run; must be missing or empty."
)
SEED = flags.DEFINE_integer(
    "seed",
    0,
    "Seeds weights, bank, shuffling, augmentation and negatives.",
    lower_bound=0,
    upper_bound=2**31 - 1,
)
NUM_NEIGHBORS = flags.DEFINE_integer(
    "num_neighbors", 200, "Neighbours that vote in kNN.", lower_bound=1
)
KNN_EVERY = flags.DEFINE_integer(
    "knn_every", 1, "Epochs between two kNN measurements.", lower_bound=1
)
KNN_ENCODE = flags.DEFINE_bool(
    "knn_encode",
    False,
    "Measure kNN also with the training images encoded anew.",
)
BASELINES = flags.DEFINE_bool(
    "baselines",
    False,
    "Compare at the end with the untrained encoder and with raw pixels.",
)
GRID_EVERY = flags.DEFINE_integer(
    "grid_every",
    0,
    "Epochs between two neighbour grids in TensorBoard, which at the end also "
    "gets the embedding projector; 0 for none. Needs the extra 'report'.",
    lower_bound=0,
)

flags.mark_flag_as_required("run_dir")
