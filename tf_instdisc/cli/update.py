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
    output: str | None = setting(
        None,
        "Run directory to write: missing, empty, or from an earlier update of "
        "the same run; by default, --run_dir itself is updated.",
        is_path=True,
    )


SETTINGS = [FinishedRun, UpdateOptions]


def main(finished: FinishedRun, options: UpdateOptions) -> None:
    """Updates the bank, and prints what has changed."""
    from tf_instdisc.runs.update import update_run

    run, done = update_run(
        finished.load(), options.images, options.reread, options.output
    )
    changes = done.changes
    print(f"kept: {len(done.untouched)}")
    for title, names in (
        ("added", changes.added),
        ("removed", changes.removed),
        ("changed", changes.changed),
        ("renamed", [f"{old} -> {new}" for old, new in changes.renamed]),
    ):
        print(f"{title}: {len(names)}{lines_of(names)}")
    print(f"run directory: {remote.shown_path(run.path)}")
