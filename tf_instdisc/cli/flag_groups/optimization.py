"""Optimisation"""

from absl import flags

from tf_instdisc import choices
from tf_instdisc.cli.flag_groups import rules

EPOCHS = flags.DEFINE_integer("epochs", 200, "Epochs.", lower_bound=1)
BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 256, "Images in a global batch.", lower_bound=1
)
OPTIMIZER = flags.DEFINE_enum(
    "optimizer", "sgd", choices.OPTIMIZERS, "Optimizer; sgd is the paper's."
)
LEARNING_RATE = flags.DEFINE_float(
    "learning_rate", 0.03, "Highest learning rate.", lower_bound=0.0
)
LEARNING_RATE_SCALING = flags.DEFINE_enum(
    "learning_rate_scaling",
    "none",
    choices.SCALINGS,
    "Whether --learning_rate is that of a batch of 256 images, and grows with "
    "the images between two updates, or with their root.",
)
ACCUMULATE_STEPS = flags.DEFINE_integer(
    "accumulate_steps",
    1,
    "Steps whose gradients are averaged into one update.",
    lower_bound=1,
)
SCHEDULE = flags.DEFINE_enum(
    "schedule",
    "steps",
    choices.SCHEDULES,
    "How the learning rate falls: not at all, by ten at each of "
    "--schedule_epochs, or along a cosine to zero.",
)
SCHEDULE_EPOCHS = flags.DEFINE_list(
    "schedule_epochs", ["120", "160"], "Epochs after which `steps` falls."
)
WARMUP_EPOCHS = flags.DEFINE_float(
    "warmup_epochs",
    0.0,
    "Epochs in which the learning rate rises from zero.",
    lower_bound=0.0,
)
MOMENTUM = flags.DEFINE_float(
    "momentum", 0.9, "Momentum of SGD.", lower_bound=0.0, upper_bound=0.9999
)
WEIGHT_DECAY = flags.DEFINE_float(
    "weight_decay",
    1e-4,
    "Weight decay as in PyTorch; with sgd it is part of the gradient.",
    lower_bound=0.0,
)


flags.register_validator(
    "schedule_epochs",
    rules.is_rising,
    "must be rising positive whole numbers: 120,160",
)


@flags.multi_flags_validator(
    ["warmup_epochs", "epochs"],
    "must be below --epochs; --warmup_epochs=0 does without a warm-up",
)
def _shorter_than_the_run(values):
    return values["warmup_epochs"] < values["epochs"]
