"""A run's bank for a changed folder: added, removed and re-encoded images.

An instance is identified by its name. A renamed file is therefore a removed
and an added one, unless its bytes show that it is the same file.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterable

import numpy as np

from tf_instdisc.errors import UsageError
from tf_instdisc.paths import local_path
from tf_instdisc.runs import lock
from tf_instdisc.runs.bank import EncodedBy
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.runs.load import load_encoder
from tf_instdisc.runs.update_bank import Update, digests_of, update_bank


def update_run(run: RunDirectory, folder: str, reread: bool = False) -> Update:
    """Updates a run's bank to a folder that has changed.

    A call that was killed can be repeated; the outcome is the same.

    Args:
        run: A finished run over a folder of images.
        folder: The images as they are now.
        reread: Whether to encode the remaining images again, too.

    Raises:
        RunDirectoryError: If the run is not finished.
        ValueError: If the run is not over a folder.
        FileNotFoundError: If the folder is missing or contains no image.
        UnreadableImageError: If no image can be read.
    """
    with lock.holding(run.path):
        return _update_locked(run, folder, reread)


def _update_locked(run: RunDirectory, folder: str, reread: bool) -> Update:
    config = run.read_config()
    data = config.data
    if data.images is None:
        images = (
            f"over --dataset={data.dataset}, which is not a folder."
            if data.dataset
            else "without a folder of images. A checkpoint can be converted "
            "again with --images; a run over an array cannot be updated."
        )
        raise UsageError(
            "`run_dir` must hold a run over a folder of images. Received: "
            f"run_dir={run.path}, a run {images}"
        )
    bank = run.load_bank()
    removed_ids, digests = run.load_instances()
    # A killed update may have recorded tombstones of ids it did not remove.
    removed_ids = np.setdiff1d(removed_ids, bank.instance_ids)
    if not digests:
        # The settings are written when training begins.
        trained = run.flags.stat().st_mtime
        digests = folder_digests(data.images, bank.names, trained)
    done = update_bank(
        bank,
        removed_ids,
        digests,
        folder,
        config,
        load_encoder(run.path),
        reread,
    )
    updated = done.bank
    if updated.encoded_by is None and reread:
        encoded_by = EncodedBy(run.encoder_digest())
        updated = dataclasses.replace(updated, encoded_by=encoded_by)
    # An update killed in between assigns no id twice, and repeats whatever
    # follows from the old digests.
    run.save_instances(done.removed_ids, digests)
    run.save_bank(updated)
    run.save_instances(done.removed_ids, done.changes.digests)
    run.set_data(images=folder)
    return done


def folder_digests(
    folder: str, names: Iterable[str], trained: float
) -> dict[str, str]:
    """Returns the SHA-256 of the files that a run was trained on, by name.

    Args:
        trained: When training began, in seconds as in `os.stat`. A file
            written later is not the one that was trained on: its digest is
            empty.

    Returns:
        Digests, without those of files that can no longer be read.
    """
    folder = local_path(folder, "images")
    known = list(map(str, names))
    digests = {}
    for name, digest in zip(known, digests_of(folder, known), strict=True):
        with contextlib.suppress(FileNotFoundError):
            if digest is not None:
                written = os.stat(os.path.join(folder, name)).st_mtime
                digests[name] = "" if written > trained else digest
    return digests
