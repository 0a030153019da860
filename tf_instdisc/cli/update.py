"""instdisc-update: brings a run's bank up to a folder that has changed."""

from tf_instdisc.cli.flag_groups import finished_run, update
from tf_instdisc.cli.launch import launch
from tf_instdisc.text import shown

GROUPS = (finished_run, update)

_SUMMARY = """
Adds, removes and re-reads images of a run over a folder: ids that stay keep
their rows, new images are encoded, removed ones are never given again.

  instdisc-update --run_dir=runs/photos --images=FOLDER
"""
_NAMED_AT_MOST = 20


def main() -> None:
    """Entry point of `instdisc-update`."""
    launch(_update, _SUMMARY, GROUPS)


def _update() -> None:
    from tf_instdisc.runs import opening
    from tf_instdisc.runs.update import update_run

    run, done = update_run(
        opening.load(finished_run.RUN_DIR.value or ""),
        update.IMAGES.value or "",
        update.REREAD.value,
        update.OUTPUT.value,
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
