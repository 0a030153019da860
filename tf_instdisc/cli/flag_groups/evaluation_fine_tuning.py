"""Fine-tuning"""

from absl import flags

from tf_instdisc import choices
from tf_instdisc.cli.flag_groups import rules

FRACTIONS = flags.DEFINE_list(
    "fractions",
    ["0.01", "0.02", "0.04", "0.1", "0.2"],
    "semi_supervised: shares of the labels.",
)
SCRATCH = flags.DEFINE_bool(
    "scratch", True, "Also train the same network from new weights."
)
FINETUNE_EPOCHS = flags.DEFINE_integer(
    "finetune_epochs", 70, "Epochs over the labelled images.", lower_bound=1
)
FINETUNE_MIN_UPDATES = flags.DEFINE_integer(
    "finetune_min_updates",
    0,
    "Updates that few images get at least; the schedule is stretched.",
    lower_bound=0,
)
FINETUNE_BATCH_SIZE = flags.DEFINE_integer(
    "finetune_batch_size", 256, "Images in a batch.", lower_bound=1
)
FINETUNE_OPTIMIZER = flags.DEFINE_enum(
    "finetune_optimizer", "sgd", choices.OPTIMIZERS, "Optimizer."
)
FINETUNE_LEARNING_RATE = flags.DEFINE_float(
    "finetune_learning_rate", 0.01, "Highest learning rate.", lower_bound=0.0
)
SCRATCH_LEARNING_RATE = flags.DEFINE_float(
    "scratch_learning_rate",
    None,
    "That of the network from scratch; the same by default.",
    lower_bound=0.0,
)
FINETUNE_SCHEDULE = flags.DEFINE_enum(
    "finetune_schedule",
    "steps",
    choices.SCHEDULES,
    "How the learning rate falls.",
)
FINETUNE_SCHEDULE_EPOCHS = flags.DEFINE_list(
    "finetune_schedule_epochs",
    ["30", "60"],
    "Epochs after which `steps` falls.",
)
FINETUNE_WEIGHT_DECAY = flags.DEFINE_float(
    "finetune_weight_decay",
    1e-4,
    "Weight decay as in PyTorch.",
    lower_bound=0.0,
)
FINETUNE_MIN_CROP_AREA = flags.DEFINE_float(
    "finetune_min_crop_area",
    None,
    "Smallest share of an image that is cropped; the run's by default.",
    lower_bound=0.01,
    upper_bound=1.0,
)


@flags.validator("fractions", "must be numbers in (0, 1]: 0.01,0.1")
def _shares(values):
    try:
        return bool(values) and all(0 < float(value) <= 1 for value in values)
    except ValueError:
        return False


flags.register_validator(
    "finetune_schedule_epochs",
    rules.is_rising,
    "must be rising positive whole numbers: 30,60",
)
