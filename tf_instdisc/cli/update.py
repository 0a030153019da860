"""Updates the bank of a run after its folder of images has changed.

Unchanged images keep their ids and rows, new images are encoded, and ids of
removed images are never reused.

Example:
  instdisc-update --run_dir=runs/photos --images=FOLDER
"""

import dataclasses

from tf_instdisc import remote
from tf_instdisc.cli.options import FinishedRun
from tf_instdisc.config.fields import Settings, setting
from tf_instdisc.text import lines_of


@dataclasses.dataclass(frozen=True)
class UpdateOptions(Settings):
    """Update"""

    images: str = setting(
        None,
        "The current folder of images.",
        is_path=True,
        is_required=True,
    )
    reread: bool = setting(
        False, "Also re-encode images that have not changed."
    )


SETTINGS = [FinishedRun, UpdateOptions]


def main(finished: FinishedRun, options: UpdateOptions) -> None:
    """Updates the bank, and prints what has changed."""
    from tf_instdisc.runs.update import update_run

    run = finished.load()
    done = update_run(run, options.images, options.reread)
    changes = done.changes
    touched = [*changes.added, *changes.changed, *changes.renamed]
    kept = 0 if options.reread else len(done.bank.names) - len(touched)
    print(f"kept: {kept}")
    for title, names in (
        ("added", changes.added),
        ("removed", changes.removed),
        ("changed", changes.changed),
        ("renamed", [f"{old} -> {new}" for old, new in changes.renamed]),
    ):
        print(f"{title}: {len(names)}{lines_of(names)}")
    print(f"run directory: {remote.shown_path(run.path)}")
