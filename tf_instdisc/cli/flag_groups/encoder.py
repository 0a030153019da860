"""Encoder"""

from absl import flags

from tf_instdisc import choices
from tf_instdisc.cli.flag_groups import data
from tf_instdisc.errors import UsageError

ENCODER = flags.DEFINE_enum(
    "encoder", "resnet18", choices.BACKBONES, "Backbone of the encoder."
)
WIDTH = flags.DEFINE_integer(
    "width",
    64,
    "Filters of the first stage, or length of a ViT's head; 64 is the paper's.",
    lower_bound=1,
)
STEM_WIDTH = flags.DEFINE_integer(
    "stem_width",
    None,
    "Filters of a ResNet's first convolution; by default those of --width.",
    lower_bound=1,
)
STEM = flags.DEFINE_enum(
    "stem",
    None,
    choices.STEMS,
    "First layers; by default cifar up to 64 pixels, imagenet above.",
)
MEAN = flags.DEFINE_string(
    "mean",
    "imagenet",
    "Mean of the input's channels: imagenet, cifar10 or three numbers, "
    "R,G,B as fractions of 255.",
)
STD = flags.DEFINE_string(
    "std",
    "imagenet",
    "Standard deviation of the input's channels, given as the mean is.",
)
PRECISION = flags.DEFINE_enum(
    "precision",
    "float32",
    choices.PRECISIONS,
    "In what the encoder computes; weights, embeddings and losses are "
    "float32. mixed_float16 scales the loss.",
)
JIT_ENCODER = flags.DEFINE_bool(
    "jit_encoder", False, "Compile the encoder, and only it, with XLA."
)
SYNC_BATCH_NORM = flags.DEFINE_bool(
    "sync_batch_norm",
    False,
    "Take the statistics of batch norm over all replicas.",
)
EMBEDDING_DIM = flags.DEFINE_integer(
    "embedding_dim", 128, "Length of the embedding.", lower_bound=1
)


@flags.multi_flags_validator(
    [ENCODER.name, STEM.name, data.IMAGE_SIZE.name, data.TRAIN_IMAGE_SIZE.name]
)
def _sizes_fit(values):
    try:
        choices.require_image_size(
            values[ENCODER.name],
            values[data.IMAGE_SIZE.name],
            values[STEM.name],
            values[data.TRAIN_IMAGE_SIZE.name],
        )
    except UsageError as error:
        raise flags.ValidationError(str(error)) from error
    return True


@flags.multi_flags_validator([ENCODER.name, STEM_WIDTH.name])
def _stem_width_fits(values):
    try:
        choices.require_stem_width(
            values[ENCODER.name], values[STEM_WIDTH.name]
        )
    except ValueError as error:
        raise flags.ValidationError(str(error)) from error
    return True


def _are_channels(name):
    def check(value):
        try:
            choices.channel_values(name, value)
        except ValueError as error:
            raise flags.ValidationError(str(error)) from error
        return True

    return check


for _flag in (MEAN, STD):
    flags.register_validator(_flag.name, _are_channels(_flag.name))


@flags.multi_flags_validator(
    ["jit_encoder", "sync_batch_norm"],
    "XLA cannot compile what replicas tell each other: leave one of them out.",
)
def _jit_or_sync(values):
    return not (values["jit_encoder"] and values["sync_batch_norm"])
