"""Augmentation"""

from absl import flags

MIN_CROP_AREA = flags.DEFINE_float(
    "min_crop_area",
    0.2,
    "Smallest share of the image's area that is cropped.",
    lower_bound=0.01,
    upper_bound=1.0,
)
BRIGHTNESS = flags.DEFINE_float(
    "brightness", 0.4, "Brightness factor in [1 - x, 1 + x].", lower_bound=0
)
CONTRAST = flags.DEFINE_float(
    "contrast", 0.4, "Contrast factor in [1 - x, 1 + x].", lower_bound=0
)
SATURATION = flags.DEFINE_float(
    "saturation", 0.4, "Saturation factor in [1 - x, 1 + x].", lower_bound=0
)
HUE = flags.DEFINE_float(
    "hue",
    0.4,
    "Turn of the hue in [-x, x], as a share of the colour circle.",
    lower_bound=0,
    upper_bound=0.5,
)
GRAYSCALE_PROBABILITY = flags.DEFINE_float(
    "grayscale_probability",
    0.2,
    "Probability of dropping an image's colour.",
    lower_bound=0,
    upper_bound=1,
)
FLIP = flags.DEFINE_bool("flip", True, "Mirror half of the images.")
