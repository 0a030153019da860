"""Trains an encoder by instance discrimination on images without labels.

Examples:
  instdisc train --images=FOLDER
  instdisc train --recipe=digits --run_dir=runs/digits

With --images and neither a recipe nor a flagfile, the image size, the width,
the epochs and other settings follow from the number and size of the images.
"""

import dataclasses
from typing import Any

from tf_instdisc.cli.folder_settings import config_of, default_run_dir
from tf_instdisc.cli.options import require_images
from tf_instdisc.config import recipes
from tf_instdisc.config.fields import Settings, setting
from tf_instdisc.config.run import group_kinds


@dataclasses.dataclass(frozen=True)
class TrainOptions(Settings):
    """Run directory and recipe"""

    run_dir: str | None = setting(
        None,
        "Directory of the run: missing, empty, or of a run to continue. By "
        "default, runs/ and the name of the folder, recipe or dataset.",
        is_path=True,
    )
    recipe: str | None = setting(
        None,
        "Recipe to start from; other flags change it, and `instdisc recipes` "
        "describes all recipes.",
        choices=recipes.names(),
    )
    finish: bool = setting(
        False,
        "Stop training: encode the images with the newest checkpoint, and "
        "write the encoder and the bank. Without it, training continues.",
    )


SETTINGS = [TrainOptions, *group_kinds().values()]


def main(options: TrainOptions, *groups: Any) -> None:
    """Trains, or continues a run."""
    data = groups[0]
    require_images(data)
    run_dir = options.run_dir or default_run_dir(data, options.recipe)

    from tf_instdisc.runs import opening

    opening.check_usable(run_dir)
    config = config_of(groups, options.recipe, run_dir)
    if config.training.init_run:
        opening.load(config.training.init_run)

    from tf_instdisc.training.train import train

    train(config, run_dir, finish=options.finish)
