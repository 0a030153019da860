"""instdisc-train: trains an encoder and fills a run directory."""

import dataclasses
from typing import Any

from tf_instdisc.cli.launch import launch
from tf_instdisc.config import recipes
from tf_instdisc.config.fields import check, setting
from tf_instdisc.config.run import RunConfig, group_kinds

_SUMMARY = """
Trains an encoder by instance discrimination on images without labels.

  instdisc train --recipe=digits --run_dir=runs/digits
"""


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """Where, and how far"""

    run_dir: str = setting(
        None,
        "Directory of the run: missing, empty, or of a run to continue.",
        is_path=True,
        is_required=True,
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

    def __post_init__(self) -> None:
        check(self)


SETTINGS = [TrainOptions, *group_kinds().values()]


def main() -> None:
    """Entry point of `instdisc-train`."""
    launch(_train, _SUMMARY, SETTINGS)


def _train(options: TrainOptions, *groups: Any) -> None:
    config = RunConfig(*groups)
    config.data.require_images()

    from tf_instdisc.runs import opening

    opening.check_usable(options.run_dir)
    if config.training.init_run:
        opening.load(config.training.init_run)

    from tf_instdisc.training.train import train

    train(config, options.run_dir, finish=options.finish)


if __name__ == "__main__":
    main()
