"""Run and monitoring"""

from absl import flags

from tf_instdisc import choices
from tf_instdisc.cli import path_flags

RUN_DIR = path_flags.define_path(
    "run_dir",
    None,
    "Directory of the run; missing, empty, or a run's to continue.",
)
INIT_RUN = path_flags.define_path(
    "init_run",
    None,
    "A finished run, or what instdisc-update made of it: this run begins with "
    "its encoder and rows, and keeps the ids of its images.",
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
KEEP_BEST = flags.DEFINE_bool(
    "keep_best",
    False,
    "Keep the encoder of the epoch with the best kNN top-1 beside the last "
    "one, as encoder_best.keras. Needs kNN.",
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

FINISH = flags.DEFINE_bool(
    "finish",
    False,
    "Train no further: encode the images with the newest checkpoint, and write "
    "encoder and bank. The same command without it goes on.",
)
CHECKPOINT_MINUTES = flags.DEFINE_float(
    "checkpoint_minutes",
    15.0,
    "Minutes between two checkpoints inside an epoch; each epoch ends with "
    "one.",
    lower_bound=0.0,
)
KEEP_CHECKPOINTS = flags.DEFINE_integer(
    "keep_checkpoints", 3, "Checkpoints that stay.", lower_bound=1
)
DISTRIBUTION = flags.DEFINE_enum(
    "distribution",
    "auto",
    choices.DISTRIBUTIONS,
    "auto: all visible GPUs of this host. multi_worker: the hosts in the "
    "environment's TF_CONFIG, each of which is given the same command.",
)
LOGICAL_CPUS = flags.DEFINE_integer(
    "logical_cpus",
    1,
    "Splits the CPU into this many devices, to try --distribution=mirrored "
    "without GPUs.",
    lower_bound=1,
)

flags.mark_flag_as_required("run_dir")
