"""Images that were moved"""

from absl import flags

from tf_instdisc.cli import path_flags

DATA_DIR = path_flags.define_path(
    "data_dir", None, "Where TFDS keeps its data, if it is not where it was."
)
IMAGES = path_flags.define_path(
    "images", None, "The run's folder of images, if it is not where it was."
)


def overrides() -> dict[str, str]:
    """The flags that are given, by name."""
    given = {"data_dir": DATA_DIR.value, "images": IMAGES.value}
    return {name: value for name, value in given.items() if value is not None}


@flags.multi_flags_validator(
    ["data_dir", "images"], "Give either --data_dir or --images."
)
def _one_place(values):
    return values["data_dir"] is None or values["images"] is None
