"""Linear classifiers"""

from absl import flags

from tf_instdisc import choices
from tf_instdisc.cli.flag_groups import rules

LINEAR_LAYERS = flags.DEFINE_list(
    "linear_layers",
    None,
    f"Layers among {', '.join(choices.LAYERS)}; by default all there are.",
)
LINEAR_FEATURES = flags.DEFINE_integer(
    "linear_features",
    9000,
    "About how many numbers a layer is pooled to.",
    lower_bound=1,
)
LINEAR_EPOCHS = flags.DEFINE_integer(
    "linear_epochs", 90, "Epochs.", lower_bound=1
)
LINEAR_BATCH_SIZE = flags.DEFINE_integer(
    "linear_batch_size", 256, "Images in a batch.", lower_bound=1
)
LINEAR_LEARNING_RATE = flags.DEFINE_float(
    "linear_learning_rate", 0.01, "The first learning rate.", lower_bound=0.0
)
LINEAR_SCHEDULE_EPOCHS = flags.DEFINE_list(
    "linear_schedule_epochs",
    ["30", "60"],
    "Epochs after which the learning rate falls by ten.",
)
LINEAR_MOMENTUM = flags.DEFINE_float(
    "linear_momentum",
    0.9,
    "Momentum of SGD.",
    lower_bound=0.0,
    upper_bound=0.9999,
)
LINEAR_WEIGHT_DECAY = flags.DEFINE_float(
    "linear_weight_decay",
    1e-4,
    "Weight decay as in PyTorch's SGD; the bias is left out.",
    lower_bound=0.0,
)
KEEP_FEATURES = flags.DEFINE_bool(
    "keep_features",
    True,
    "Keep the layers' activations in the run's directory for the next "
    "evaluation.",
)


@flags.validator("linear_layers", f"Give some of {', '.join(choices.LAYERS)}.")
def _known(names):
    return names is None or (names and set(names) <= set(choices.LAYERS))


flags.register_validator(
    "linear_schedule_epochs",
    rules.is_rising,
    "must be rising positive whole numbers: 30,60",
)
