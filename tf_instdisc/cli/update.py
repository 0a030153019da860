"""instdisc-update: updates a run's bank after its folder has changed."""

import dataclasses

from tf_instdisc.cli.launch import launch
from tf_instdisc.cli.options import FinishedRun
from tf_instdisc.config.fields import check, setting
from tf_instdisc.text import shown

_SUMMARY = """
Updates the bank of a run after its folder of images has changed. Unchanged
images keep their ids and rows, new images are encoded, and ids of removed
images are never reused.

  instdisc-update --run_dir=runs/photos --images=FOLDER
"""
_NAMED_AT_MOST = 20


@dataclasses.dataclass(frozen=True)
class UpdateOptions:
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

    def __post_init__(self) -> None:
        check(self)


SETTINGS = [FinishedRun, UpdateOptions]


def main() -> None:
    """Entry point of `instdisc-update`."""
    launch(_update, _SUMMARY, SETTINGS)


def _update(finished: FinishedRun, options: UpdateOptions) -> None:
    from tf_instdisc.runs.update import update_run

    run, done = update_run(
        finished.load(), options.images, options.reread, options.output
    )
    print(f"kept: {len(done.kept)}")
    renamed = [f"{old} -> {new}" for old, new in done.renamed]
    for title, names in (
        ("added", done.added),
        ("removed", done.removed),
        ("changed", done.changed),
        ("renamed", renamed),
    ):
        print(f"{title}: {len(names)}")
        for name in names[:_NAMED_AT_MOST]:
            print(f"  {shown(name)}")
        if len(names) > _NAMED_AT_MOST:
            print(f"  and {len(names) - _NAMED_AT_MOST} more")
    print(f"run directory: {shown(str(run.path))}")


if __name__ == "__main__":
    main()
