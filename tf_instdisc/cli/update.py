"""instdisc-update: brings a run's bank up to a folder that has changed."""

import json
import shutil

from tf_instdisc.cli.flag_groups import finished_run, update
from tf_instdisc.cli.launch import launch

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
    from tf_instdisc import run_directory
    from tf_instdisc.load import load_encoder
    from tf_instdisc.update import folder_digests, update_bank

    run = run_directory.load(finished_run.RUN_DIR.value or "")
    flags = run.read_flags()
    if "images" not in flags:
        raise ValueError(
            "`run_dir` must hold a run over a folder of images. Received: a "
            f"run over --dataset={flags.get('dataset')}"
        )
    bank = run.load_bank()
    removed_ids, digests = run.load_instances()
    if not digests:
        # Flags are written when training begins.
        trained = run.flags.stat().st_mtime
        digests = folder_digests(flags["images"], bank.names, trained)
    folder = update.IMAGES.value or ""
    done = update_bank(
        bank,
        removed_ids,
        digests,
        folder,
        flags,
        load_encoder(run.path),
        update.REREAD.value,
    )
    if update.OUTPUT.value:
        text = run.flags.read_text(encoding="utf-8")
        settings = json.loads(run.settings.read_text(encoding="utf-8"))
        old, run = (
            run,
            run_directory.open_run(update.OUTPUT.value, settings, (), text),
        )
        shutil.copy(old.encoder, run.encoder)
    # Killed in between, an update gives no id twice, and does again what the
    # old digests tell.
    run.save_instances(done.removed_ids, digests)
    run.save_bank(done.bank)
    run.save_instances(done.removed_ids, done.digests)
    run.set_flag("images", folder)
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
            print(f"  {name}")
        if len(names) > _NAMED_AT_MOST:
            print(f"  and {len(names) - _NAMED_AT_MOST} more")
    print(f"run directory: {run.path}")


if __name__ == "__main__":
    main()
