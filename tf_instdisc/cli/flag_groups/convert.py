"""Conversion"""

from absl import flags

FROM = flags.DEFINE_string(
    "from", None, "Checkpoint of PyTorch, as it was downloaded."
)
TO = flags.DEFINE_string("to", None, "Run directory to make; missing or empty.")
IMAGE_SIZE = flags.DEFINE_integer(
    "image_size",
    224,
    "Side of the encoder's input, in pixels; the weights fit any.",
    lower_bound=8,
)
IMAGES = flags.DEFINE_string(
    "images",
    None,
    "The folder that the bank was made from, with a subfolder for each class: "
    "gives the rows their names and labels.",
)

flags.mark_flags_as_required([FROM.name, TO.name])
