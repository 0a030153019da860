"""A run's bank for a folder that has changed: added, removed, re-read images.

An instance is its name. A renamed file therefore is a removed and an added
one, unless its bytes tell that it is the same.
"""

import dataclasses
import hashlib
import os

import keras
import numpy as np

from tf_instdisc.data.folder import folder_source, image_paths
from tf_instdisc.data.sources import NO_LABEL
from tf_instdisc.run_directory import Bank
from tf_instdisc.run_images import RunImages


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


def update_bank(
    bank: Bank,
    removed_ids: np.ndarray,
    old_digests: dict[str, str],
    folder: str,
    flags: dict[str, str],
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
        flags: The run's flags.
        encoder: The run's encoder.
        reread: Whether images that stayed are encoded anew too.

    Returns:
        The new bank and what was done.

    Raises:
        FileNotFoundError: If the folder is missing or holds no image.
        ValueError: If the folder has class subfolders other than the run's.
    """
    position_of = {str(name): i for i, name in enumerate(bank.names)}
    digests = {
        name: _digest(os.path.join(folder, name))
        for name in image_paths(folder)
    }
    # Each was decoded when it came into the bank.
    kept_files = {
        name
        for name, digest in digests.items()
        if name in position_of and old_digests.get(name, digest) == digest
    }
    source = folder_source(folder, "skip", known_good=kept_files)
    unreadable = set(source.unreadable)
    readable = [i for i in range(source.num_instances) if i not in unreadable]
    now = [source.instance_name(i) for i in readable]
    labels = dict(zip(now, _labels(now, bank), strict=True))
    digests = {name: digests[name] for name in now}

    added = [name for name in now if name not in position_of]
    removed = [name for name in position_of if name not in labels]
    renamed = _renames(removed, added, old_digests, digests)
    for old, new in renamed:
        position_of[new] = position_of.pop(old)
    was_renamed = dict(renamed)
    removed = [name for name in removed if name not in was_renamed]
    added = [name for name in added if name not in position_of]
    changed = [
        name
        for name in now
        if name in old_digests
        and name in position_of
        and name not in was_renamed.values()
        and old_digests[name] != digests[name]
    ]
    gone = np.array([position_of[name] for name in removed], np.int64)
    removed_ids = np.union1d(removed_ids, bank.instance_ids[gone])

    # === Kept rows first: their ids are lower than those of the added ===
    kept = sorted(
        (position, name)
        for name, position in position_of.items()
        if name in labels
    )
    positions = np.array([position for position, _ in kept], np.int64)
    kept_names = [name for _, name in kept]
    highest = max(bank.instance_ids.max(), removed_ids.max(initial=-1))
    names = [*kept_names, *added]
    rows = np.concatenate(
        [
            bank.rows[positions],
            np.zeros([len(added), bank.rows.shape[1]], bank.rows.dtype),
        ]
    )
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
    )
    fresh = {*added, *changed, *(kept_names if reread else ())}
    _encode(updated, fresh, folder, flags, encoder)
    untouched = fresh | set(was_renamed.values())
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
        raise ValueError(
            "`images` must have the class subfolders of the run: "
            f"{', '.join(bank.class_names)}. Received: {', '.join(unknown)}"
        )
    return [known.get(name, NO_LABEL) for name in classes]


def _encode(bank, fresh, folder, flags, encoder):
    """Sets the rows of the named images."""
    positions = np.flatnonzero([str(name) in fresh for name in bank.names])
    images = RunImages(bank, {**flags, "images": folder})
    batches = images.batches(positions, images.image_size, images.crop_fraction)
    missing = set(positions.tolist())
    for slots, batch in batches:
        bank.rows[positions[slots]] = encoder.predict_on_batch(batch)
        missing -= set(positions[slots].tolist())
    if missing:
        raise ValueError(
            "`images` must not change while it is read. Received: "
            f"{bank.names[min(missing)]}, which is gone or broken since it was "
            "listed. Start again."
        )
