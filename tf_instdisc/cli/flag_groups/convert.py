"""Conversion"""

from absl import flags

from tf_instdisc.cli import path_flags

FROM = path_flags.define_path(
    "from", None, "Checkpoint of PyTorch, as it was downloaded."
)
TO = path_flags.define_path(
    "to", None, "Run directory to make; missing or empty."
)
IMAGE_SIZE = flags.DEFINE_integer(
    "image_size",
    None,
    "Side of the encoder's input, in pixels; by default 32 for checkpoints of "
    "the authors' cifar.py, 224 for others.",
    lower_bound=8,
)
IMAGES = path_flags.define_path(
    "images",
    None,
    "The folder that the bank was made from, with a subfolder for each class: "
    "gives the rows their names and labels.",
)

flags.mark_flags_as_required([FROM.name, TO.name])
