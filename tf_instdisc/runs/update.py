"""A run's bank for a folder that has changed: added, removed, re-read images.

An instance is its name. A renamed file therefore is a removed and an added
one, unless its bytes tell that it is the same.
"""

import dataclasses
import os
import shutil
from collections.abc import Iterable

import numpy as np

from tf_instdisc import checksums
from tf_instdisc.checksums import sha256_of_file
from tf_instdisc.errors import UsageError
from tf_instdisc.runs import lock, opening
from tf_instdisc.runs.bank import EncodedBy
from tf_instdisc.runs.directory import RunDirectory, RunDirectoryError
from tf_instdisc.runs.load import load_encoder
from tf_instdisc.runs.update_bank import Update, update_bank


def update_run(
    run: RunDirectory,
    folder: str,
    reread: bool = False,
    output: str | None = None,
) -> tuple[RunDirectory, Update]:
    """Brings a run's bank up to a folder that has changed.

    A call that was killed is repeated: the outcome is the same.

    Args:
        run: A finished run over a folder of images.
        folder: The images as they are now.
        reread: Whether images that stayed are encoded again too.
        output: Directory of the updated run, missing, empty, or what an
            earlier update of this run has written there, which then goes
            on from its own ids; by default `run` itself is updated.

    Returns:
        The updated run, and what was done.

    Raises:
        RunDirectoryError: If the run has not finished, or `output` holds
            another one.
        ValueError: If it is no run over a folder.
        FileNotFoundError: If the folder is missing or holds no image.
        UnreadableImageError: If no image can be read.
    """
    with lock.holding(output or run.path):
        return _update_locked(run, folder, reread, output)


def _update_locked(
    run: RunDirectory, folder: str, reread: bool, output: str | None
) -> tuple[RunDirectory, Update]:
    config = run.read_config()
    data = config.data
    if data.images is None:
        raise UsageError(
            "`run_dir` must hold a run over a folder of images. Received: a "
            f"run over --dataset={data.dataset}"
        )
    target = state = run
    if output:
        target = _open_output(run, output, folder)
        state = target if target.bank.exists() else run
    bank = state.load_bank()
    removed_ids, digests = state.load_instances()
    # A killed update may have buried what it did not remove.
    removed_ids = np.setdiff1d(removed_ids, bank.instance_ids)
    if not digests:
        # Settings are written when training begins.
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
        encoded_by = EncodedBy(target.encoder_digest())
        updated = dataclasses.replace(updated, encoded_by=encoded_by)
    # Killed in between, an update gives no id twice, and does again what the
    # old digests tell.
    target.save_instances(done.removed_ids, digests)
    target.save_bank(updated)
    target.save_instances(done.removed_ids, done.digests)
    target.set_data(images=folder)
    return target, done


def _open_output(run: RunDirectory, output: str, folder: str) -> RunDirectory:
    """The directory of the updated run, with the encoder in it."""
    written = run.read_record()
    target = opening.check_record(output, written)
    if target.encoder.exists():
        if target.encoder_digest() == run.encoder_digest():
            return target
        raise RunDirectoryError(
            "`output` must be missing, empty, or hold an update of the same "
            f"run. Received: output={output}, which has another encoder than "
            f"{run.path}."
        )
    target.save_record(written.with_data(images=folder))
    run.encoder_digest()
    with checksums.replacing(target.encoder) as partial:
        shutil.copyfile(run.encoder, partial)
    return target


def folder_digests(
    folder: str, names: Iterable[str], trained: float
) -> dict[str, str]:
    """SHA-256 of the files that a run was trained on, by name.

    Args:
        folder: The run's images.
        names: Names of the bank.
        trained: When training began, seconds as in `os.stat`. A file written
            after that is another one than was trained on: its digest is
            empty.

    Returns:
        Digests; files that are gone are left out.
    """
    digests = {}
    for name in map(str, names):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            is_newer = os.stat(path).st_mtime > trained
            digests[name] = "" if is_newer else sha256_of_file(path)
    return digests
