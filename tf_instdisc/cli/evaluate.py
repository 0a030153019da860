"""Evaluates a finished run with the protocols of the paper.

It prints a Markdown table that includes the paper's numbers, and writes
results.json.

Example:
  instdisc-evaluate --run_dir=runs/cifar10 --protocol=knn,linear
"""

import dataclasses

from absl import flags

from tf_instdisc import remote
from tf_instdisc.cli.options import FinishedRun
from tf_instdisc.cli.setting_flags import FlagGroup
from tf_instdisc.config.data import BAD_IMAGES, CACHES, data_overrides
from tf_instdisc.config.fields import setting
from tf_instdisc.errors import UsageError
from tf_instdisc.evaluation.protocol import (
    baselines_setting,
    protocols,
    seed_setting,
)

_PROTOCOLS = protocols()


@dataclasses.dataclass(frozen=True)
class EvaluateOptions(FinishedRun):
    """Run, protocols and images"""

    protocol: tuple[str, ...] = setting(
        ("knn",),
        "Protocols to run, one after the other.",
        choices=tuple(_PROTOCOLS),
        is_filled=True,
    )
    baselines: bool = baselines_setting()
    seed: int = seed_setting()
    dataset: str | None = setting(None, "TFDS dataset, instead of the run's.")
    split: str | None = setting(None, "Training split, instead of the run's.")
    test_split: str | None = setting(None, "Test split, instead of the run's.")
    data_dir: str | None = setting(
        None,
        "Where TFDS keeps its data, also that of --detection_dataset, if it "
        "was moved.",
        is_path=True,
    )
    image_key: str | None = setting(
        None, "Feature that holds the images, instead of the run's."
    )
    label_key: str | None = setting(
        None, "Feature that holds the labels, instead of the run's."
    )
    cache: str | None = setting(
        None,
        "Whether to decode a TFDS dataset into memory, instead of the run's "
        "setting.",
        choices=CACHES,
    )
    bad_images: str | None = setting(
        None,
        "What to do if files in a folder cannot be read, instead of the run's "
        "setting.",
        choices=BAD_IMAGES,
    )
    images: str | None = setting(
        None,
        "Folder of training images, instead of the run's.",
        is_path=True,
    )
    test_images: str | None = setting(
        None,
        "Folder of test images, instead of the run's.",
        is_path=True,
    )


UNREAD: list[type] = [protocol.options_kind for protocol in _PROTOCOLS.values()]
SETTINGS: list[type] = [EvaluateOptions, *UNREAD]


def main(options: EvaluateOptions, *unread: FlagGroup) -> None:
    """Evaluates the run, and prints the table."""
    groups = {group.settings: group for group in unread}
    for flag in ("detection_dataset", "detection_images"):
        is_given = flags.FLAGS[flag].value is not None
        if is_given and "detection" not in options.protocol:
            raise UsageError(
                f"--{flag} requires --protocol=detection. Received: "
                f"--protocol={','.join(options.protocol)}. Add detection to "
                f"it, or leave --{flag} out."
            )
    chosen = {
        name: groups[_PROTOCOLS[name].options_kind].read()
        for name in dict.fromkeys(options.protocol)
    }

    run = options.load()

    from tf_instdisc.evaluation import results
    from tf_instdisc.evaluation.evaluate import evaluate

    measured = evaluate(run, chosen, data_overrides(options))
    print()
    print(results.table(measured))
    print(f"results: {remote.shown_path(run.results)}")
