"""Encoder"""

from absl import flags

from tf_instdisc import choices

ENCODER = flags.DEFINE_enum(
    "encoder", "resnet18", choices.BACKBONES, "Backbone of the encoder."
)
WIDTH = flags.DEFINE_integer(
    "width", 64, "Filters of the first stage; 64 is the paper's.", lower_bound=1
)
STEM = flags.DEFINE_enum(
    "stem",
    None,
    choices.STEMS,
    "First layers; by default cifar up to 64 pixels, imagenet above.",
)
EMBEDDING_DIM = flags.DEFINE_integer(
    "embedding_dim", 128, "Length of the embedding.", lower_bound=1
)
