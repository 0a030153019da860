"""A run's bank for a folder that has changed: added, removed, re-read images.

An instance is its name. A renamed file therefore is a removed and an added
one, unless its bytes tell that it is the same.
"""

import dataclasses
import hashlib
import os
import shutil

import keras
import numpy as np

from tf_instdisc import checksums
from tf_instdisc.config import RunConfig
from tf_instdisc.data.folder import report_unreadable
from tf_instdisc.data.folder_listing import image_paths
from tf_instdisc.data.sources import NO_LABEL
from tf_instdisc.errors import UsageError
from tf_instdisc.paths import local_path
from tf_instdisc.runs import lock, opening
from tf_instdisc.runs.bank import Bank, EncodedBy
from tf_instdisc.runs.directory import RunDirectory, RunDirectoryError
from tf_instdisc.runs.images import RunImages
from tf_instdisc.runs.load import load_encoder
from tf_instdisc.runs.sources import with_overrides
from tf_instdisc.text import shown


@dataclasses.dataclass(frozen=True)
class Update:
    """A bank for the images as they are now, and what became of the old.

    Attributes:
        bank: Rows of kept and added images. Kept ids have the row and the
            name that they had, bit for bit; those of removed images are gone
            and are never given again.
        removed_ids: int64, tombstones: all ids that once were and are no more.
        digests: SHA-256 of each image's file by name.
        kept: Names that are as they were.
        added: New names.
        removed: Names that are gone.
        changed: Names whose file is another one; encoded anew.
        renamed: Pairs of an old and a new name of the same file; the id and
            the row are kept, the name is the new one.
    """

    bank: Bank
    removed_ids: np.ndarray
    digests: dict[str, str]
    kept: list[str]
    added: list[str]
    removed: list[str]
    changed: list[str]
    renamed: list[tuple[str, str]]


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
        reread: Whether images that stayed are encoded anew too.
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


def _update_locked(run, folder, reread, output):
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


def _open_output(run, output, folder) -> RunDirectory:
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
    target.save_record(written)
    target.set_data(images=folder)
    run.encoder_digest()
    with checksums.replacing(target.encoder) as partial:
        shutil.copyfile(run.encoder, partial)
    return target


def update_bank(
    bank: Bank,
    removed_ids: np.ndarray,
    old_digests: dict[str, str],
    folder: str,
    config: RunConfig,
    encoder: keras.Model,
    reread: bool = False,
) -> Update:
    """Compares a bank with a folder, and encodes what is new.

    Args:
        bank: The bank as it is.
        removed_ids: Tombstones of earlier updates.
        old_digests: SHA-256 by name, as the last update has left them; a name
            that is missing here counts as unchanged.
        folder: The images as they are now.
        config: The run's settings.
        encoder: The run's encoder.
        reread: Whether images that stayed are encoded anew too.

    Returns:
        The new bank and what was done.

    Raises:
        FileNotFoundError: If the folder is missing or holds no image.
        UnreadableImageError: If no image can be read.
        ValueError: If the folder has class subfolders other than the run's.
    """
    folder = local_path(folder, "folder")
    position_of = {str(name): i for i, name in enumerate(bank.names)}
    digests = {
        name: _digest(os.path.join(folder, name))
        for name in image_paths(folder)
    }
    labels = dict(zip(digests, _labels(digests, bank), strict=True))
    added = [name for name in digests if name not in position_of]
    removed = [name for name in position_of if name not in digests]
    renamed = _renames(removed, added, old_digests, digests)
    for old, new in renamed:
        position_of[new] = position_of.pop(old)
    was_renamed = dict(renamed)
    removed = [name for name in removed if name not in was_renamed]
    added = [name for name in added if name not in position_of]
    changed = [
        name
        for name in digests
        if name in old_digests
        and name in position_of
        and name not in was_renamed.values()
        and old_digests[name] != digests[name]
    ]

    # === All else was decoded when it came into the bank ===
    fresh = [*added, *changed]
    if reread:
        fresh = list(digests)
    rows_of = _encode(fresh, folder, config, encoder)
    bad = {name for name in fresh if name not in rows_of}
    if bad:
        report_unreadable(sorted(bad), len(digests), folder, "skip")
    digests = {n: digest for n, digest in digests.items() if n not in bad}
    added = [name for name in added if name not in bad]
    removed += [name for name in position_of if name in bad]
    changed = [name for name in changed if name not in bad]
    renamed = [(old, new) for old, new in renamed if new not in bad]
    gone = np.array([position_of[name] for name in removed], np.int64)
    removed_ids = np.union1d(removed_ids, bank.instance_ids[gone])

    # === Kept rows first: their ids are lower than those of the added ===
    kept = sorted(
        (position, name)
        for name, position in position_of.items()
        if name in digests
    )
    positions = np.array([position for position, _ in kept], np.int64)
    kept_names = [name for _, name in kept]
    highest = max(bank.instance_ids.max(), removed_ids.max(initial=-1))
    names = [*kept_names, *added]
    rows = np.zeros([len(names), bank.rows.shape[1]], bank.rows.dtype)
    rows[: len(kept)] = bank.rows[positions]
    for i, name in enumerate(names):
        if name in rows_of:
            rows[i] = rows_of[name]
    updated = Bank(
        rows=rows,
        instance_ids=np.concatenate(
            [
                bank.instance_ids[positions],
                highest + 1 + np.arange(len(added)),
            ]
        ),
        names=np.array(names),
        labels=np.array([labels[name] for name in names], np.int64),
        class_names=bank.class_names,
        encoded_by=bank.encoded_by,
    )
    untouched = {*rows_of, *(new for _, new in renamed)}
    return Update(
        updated,
        removed_ids,
        digests,
        [name for name in kept_names if name not in untouched],
        added,
        removed,
        changed,
        renamed,
    )


def folder_digests(folder: str, names, trained: float) -> dict[str, str]:
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
            digests[name] = "" if is_newer else _digest(path)
    return digests


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _renames(removed, added, old_digests, digests):
    """Pairs of names of one file, where there is exactly one of each."""
    by_digest: dict[str, list[str]] = {}
    for name in added:
        by_digest.setdefault(digests[name], []).append(name)
    olds: dict[str, list[str]] = {}
    for name in removed:
        if name in old_digests:
            olds.setdefault(old_digests[name], []).append(name)
    return [
        (names[0], by_digest[digest][0])
        for digest, names in olds.items()
        if len(names) == 1 and len(by_digest.get(digest, ())) == 1
    ]


def _labels(names, bank):
    """Labels in the bank's numbering; none outside of the class subfolders."""
    if not bank.class_names:
        return [NO_LABEL] * len(names)
    known = {name: i for i, name in enumerate(bank.class_names)}
    classes = [name.split("/")[0] if "/" in name else None for name in names]
    unknown = sorted(set(classes) - set(known) - {None})
    if unknown:
        raise UsageError(
            "`images` must have the class subfolders of the run: "
            f"{', '.join(map(shown, bank.class_names))}. Received: "
            f"{', '.join(map(shown, unknown))}"
        )
    return [known.get(name, NO_LABEL) for name in classes]


def _encode(names, folder, config, encoder):
    """Rows by name; of what cannot be read there is none."""
    size = len(names)
    bank = Bank(
        np.zeros([size, 0]), np.arange(size), np.array(names), np.zeros(size)
    )
    data = with_overrides(config.data, {"images": folder})
    images = RunImages(bank, dataclasses.replace(config, data=data))
    rows = {}
    for slots, batch in images.batches(
        np.arange(size), images.image_size, images.crop_fraction
    ):
        embedded = encoder.predict_on_batch(batch)
        rows.update(zip([names[i] for i in slots], embedded, strict=True))
    return rows
