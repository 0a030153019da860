"""Compares a bank with a folder, and merges new images into it."""

import dataclasses
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent import futures

import keras
import numpy as np

from tf_instdisc import progress
from tf_instdisc.checksums import sha256_of_file
from tf_instdisc.config import RunConfig
from tf_instdisc.data.folder import labels_of, report_unreadable
from tf_instdisc.data.folder_listing import image_paths
from tf_instdisc.data.image_files import require_lasting
from tf_instdisc.errors import UsageError
from tf_instdisc.paths import local_path
from tf_instdisc.runs.bank import Bank, next_id
from tf_instdisc.runs.encoding import encode_files
from tf_instdisc.text import listed

_FILES_AT_A_TIME = 1024


@dataclasses.dataclass(frozen=True)
class Changes:
    """The differences between a folder and a bank.

    Attributes:
        position_of: Rows of the bank by name; renamed files by the new name.
        digests: SHA-256 of each image's file, by name.
        labels: Labels in the bank's numbering, by name.
        added: New names.
        removed: Names that no longer exist.
        changed: Names whose file has changed; re-encoded.
        renamed: Pairs of an old and a new name of the same file; the id and
            the row are kept, the name is the new one.
    """

    position_of: dict[str, int]
    digests: dict[str, str]
    labels: dict[str, int]
    added: list[str]
    removed: list[str]
    changed: list[str]
    renamed: list[tuple[str, str]]

    @property
    def kept(self) -> list[str]:
        """Returns the bank's names that still exist, in the bank's order."""
        names = [name for name in self.position_of if name in self.digests]
        return sorted(names, key=self.position_of.__getitem__)

    def without(self, bad: Collection[str]) -> "Changes":
        """Returns the changes if files that cannot be read are removed."""
        return dataclasses.replace(
            self,
            digests={n: d for n, d in self.digests.items() if n not in bad},
            added=[name for name in self.added if name not in bad],
            removed=[
                *self.removed,
                *(name for name in self.position_of if name in bad),
            ],
            changed=[name for name in self.changed if name not in bad],
            renamed=[(old, n) for old, n in self.renamed if n not in bad],
        )


@dataclasses.dataclass(frozen=True)
class Update:
    """A bank for the images as they are now, and the changes to the old one.

    Attributes:
        bank: Rows of kept and added images. Kept ids have the same row and
            name as before, bit for bit; those of removed images are gone and
            are never assigned again.
        removed_ids: int64, tombstones: all ids that existed and no longer do.
        changes: What has changed.
    """

    bank: Bank
    removed_ids: np.ndarray
    changes: Changes


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
        bank: The current bank.
        removed_ids: Tombstones of earlier updates.
        old_digests: SHA-256 by name, as of the last update; a name that is
            missing here counts as unchanged.
        folder: The images as they are now.
        config: The run's settings.
        encoder: The run's encoder.
        reread: Whether to encode the remaining images again, too.

    Raises:
        FileNotFoundError: If the folder is missing or contains no image.
        UnreadableImageError: If no image can be read.
        StorageError: If the disk or the network fails.
        ValueError: If the folder has class subfolders other than the run's.
    """
    folder = local_path(folder, "folder")
    changes, unread = _compare(bank, folder, old_digests)
    # All other images were decoded when they were added to the bank.
    fresh = [*changes.added, *changes.changed]
    if reread:
        fresh = list(changes.digests)
    encoded = encode_files(folder, fresh, config, encoder).bank
    rows_of = dict(zip(encoded.names.tolist(), encoded.rows, strict=True))
    bad = {name for name in fresh if name not in rows_of}
    if bad or unread:
        num_images = len(changes.digests) + len(unread)
        report_unreadable(sorted(bad | unread), num_images, folder, "skip")
    changes = changes.without(bad)
    gone = [changes.position_of[name] for name in changes.removed]
    removed_ids = np.union1d(
        removed_ids, bank.instance_ids[np.array(gone, np.int64)]
    )
    merged = _merge(bank, changes, rows_of, removed_ids)
    return Update(merged, removed_ids, changes)


def digest_of(path: str) -> str | None:
    """Returns the SHA-256 of a file; None if the file cannot be read.

    Raises:
        StorageError: If the disk or the network fails. The image must not
            count as removed then, as its id would be lost.
    """
    try:
        return sha256_of_file(path)
    except OSError as error:
        require_lasting(
            error,
            path,
            f"({error.strerror}). Check the disk or the network, then run the "
            "same command again.",
        )
        return None


def digests_of(folder: str, names: Sequence[str]) -> Iterator[str | None]:
    """Returns what `digest_of` gives for files, which are read in parallel."""
    paths = [os.path.join(folder, name) for name in names]
    with (
        progress.tracking("reading files", len(paths)) as advance,
        futures.ThreadPoolExecutor() as pool,
    ):
        for start in range(0, len(paths), _FILES_AT_A_TIME):
            some = paths[start : start + _FILES_AT_A_TIME]
            for digest in pool.map(digest_of, some):
                yield digest
                advance(1)


def _compare(
    bank: Bank, folder: str, old_digests: dict[str, str]
) -> tuple[Changes, set[str]]:
    """Returns the changes, and the names of files that cannot be read."""
    position_of = {str(name): i for i, name in enumerate(bank.names)}
    names = image_paths(folder)
    digests = {
        name: digest
        for name, digest in zip(names, digests_of(folder, names), strict=True)
        if digest is not None
    }
    labels = dict(zip(digests, _labels(digests, bank).tolist(), strict=True))
    added = [name for name in digests if name not in position_of]
    removed = [name for name in position_of if name not in digests]
    renamed = _renames(removed, added, old_digests, digests)
    for old, new in renamed:
        position_of[new] = position_of.pop(old)
    was_renamed = dict(renamed)
    changes = Changes(
        position_of,
        digests,
        labels,
        added=[name for name in added if name not in position_of],
        removed=[name for name in removed if name not in was_renamed],
        changed=[
            name
            for name in digests
            if name in old_digests
            and name in position_of
            and name not in was_renamed.values()
            and old_digests[name] != digests[name]
        ],
        renamed=renamed,
    )
    return changes, set(names) - set(digests)


def _merge(
    bank: Bank,
    changes: Changes,
    rows_of: dict[str, np.ndarray],
    removed_ids: np.ndarray,
) -> Bank:
    """Puts kept rows first, as their ids are lower than those of the added."""
    positions = np.array(
        [changes.position_of[name] for name in changes.kept], np.int64
    )
    names = [*changes.kept, *changes.added]
    rows = np.zeros([len(names), bank.rows.shape[1]], bank.rows.dtype)
    rows[: len(positions)] = bank.rows[positions]
    for i, name in enumerate(names):
        if name in rows_of:
            rows[i] = rows_of[name]
    new_ids = next_id(bank, removed_ids) + np.arange(len(changes.added))
    return Bank(
        rows=rows,
        instance_ids=np.concatenate([bank.instance_ids[positions], new_ids]),
        names=np.array(names),
        labels=np.array([changes.labels[name] for name in names], np.int64),
        class_names=bank.class_names,
        encoded_by=bank.encoded_by,
    )


def _renames(
    removed: Iterable[str],
    added: Iterable[str],
    old_digests: dict[str, str],
    digests: dict[str, str],
) -> list[tuple[str, str]]:
    """Returns name pairs for files that occur exactly once on both sides."""
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


def _labels(names: Collection[str], bank: Bank) -> np.ndarray:
    """Returns labels in the bank's numbering; none outside the subfolders."""
    classes = {name.split("/")[0] for name in names if "/" in name}
    unknown = sorted(classes.difference(bank.class_names))
    if unknown and bank.class_names:
        raise UsageError(
            "`images` must have the class subfolders of the run: "
            f"{listed(bank.class_names)}. Received: {listed(unknown)}. Move "
            "their images into these, or train a new run with --init_encoder."
        )
    return labels_of(names, bank.class_names)
