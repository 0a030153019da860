"""Finds the images below a folder, and reports the files that it skips."""

import collections
import os
import sys

from tf_instdisc.config.data import IMAGE_SUFFIXES
from tf_instdisc.errors import MissingFileError, UsageError
from tf_instdisc.paths import checked_path, is_url, local_path
from tf_instdisc.remote_store import Store
from tf_instdisc.text import shown

_NAMED_AT_MOST = 10


def image_paths(folder: str, is_reported: bool = True) -> list[str]:
    """Lists the images below a folder, by their suffixes.

    Symbolic links are followed. Below each entry of the folder, a directory
    is read only once, so that cycles of links end. Skipped files are counted
    and reported on standard error; hidden files are skipped silently.

    Args:
        folder: Path; all levels are searched.
        is_reported: Whether skipped files are reported.

    Returns:
        Relative paths with forward slashes, sorted by code point. They
        include broken links, which are images that cannot be read.

    Raises:
        FileNotFoundError: If the folder is missing or contains no image.
        ValueError: If a name is not UTF-8, or a directory cannot be read.
    """
    folder = local_path(folder, "folder")
    require_folder(folder)
    names: list[str] = []
    left_out: collections.Counter[str] = collections.Counter()
    for entry in _entries(folder, ""):
        # The folder itself counts as read: a link to it is a cycle.
        seen = {_identity(folder)}
        _search(entry, entry.name, seen, names, left_out)
    return _in_order(names, left_out, folder, is_reported)


def require_folder(folder: str) -> None:
    """Raises FileNotFoundError unless a folder of images exists."""
    if not os.path.isdir(local_path(folder, "folder")):
        raise MissingFileError(
            f"The folder of images must exist. Received: folder={folder!r}"
        )


def image_paths_at(folder: str) -> list[str]:
    """Lists the images below a path or a URL, of which nothing is copied.

    Args:
        folder: As in `image_paths`.

    Returns:
        As in `image_paths`.

    Raises:
        FileNotFoundError: As in `image_paths`.
        ValueError: As in `image_paths`.
        StorageError: If the URL cannot be read.
    """
    folder = checked_path(folder, "folder")
    if not is_url(folder):
        return image_paths(folder)
    names: list[str] = []
    left_out: collections.Counter[str] = collections.Counter()
    for name in Store(folder).objects():
        is_hidden = any(part.startswith(".") for part in name.split("/"))
        if not is_hidden and _is_image(name, left_out):
            names.append(name)
    return _in_order(names, left_out, folder)


def _in_order(
    names: list[str],
    left_out: collections.Counter[str],
    folder: str,
    is_reported: bool = True,
) -> list[str]:
    """Sorts the names of images, and reports what is left out."""
    names.sort()
    for name in names:
        # Python represents bytes that are not UTF-8 by surrogates.
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise UsageError(
                "Names of images must be UTF-8. Received: "
                f"{os.fsencode(name)!r} in folder={folder!r}. Rename it."
            )
    said = _said(left_out)
    if not names:
        found = f" It holds other files: {said}." if said else ""
        raise MissingFileError(
            f"The folder must hold images ({', '.join(IMAGE_SUFFIXES)}). "
            f"Received: folder={folder!r}.{found}"
        )
    if said and is_reported:
        print(
            f"In {shown(folder)}, "
            f"{len(names)} images are used; left out: {said}",
            file=sys.stderr,
            flush=True,
        )
    return names


def _search(
    entry: os.DirEntry[str],
    name: str,
    seen: set[tuple[int, int]],
    names: list[str],
    left_out: collections.Counter[str],
) -> None:
    """Adds an entry, or everything below it."""
    if entry.name.startswith("."):
        return
    # `DirEntry.is_dir` raises for a link to itself.
    is_link = entry.is_symlink()
    if os.path.isdir(entry.path) if is_link else entry.is_dir():
        identity = _identity(entry.path)
        if identity in seen:
            left_out["links to directories that were already read"] += 1
            return
        seen.add(identity)
        for below in _entries(entry.path, name):
            path = f"{name}/{below.name}"
            _search(below, path, seen, names, left_out)
        return
    if not _is_image(name, left_out):
        return
    if os.path.isfile(entry.path) or not os.path.exists(entry.path):
        names.append(name)
    else:
        left_out["pipes and devices"] += 1


def _is_image(name: str, left_out: collections.Counter[str]) -> bool:
    """Returns whether the suffix is that of an image, and counts others."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in IMAGE_SUFFIXES:
        left_out[suffix or "without a suffix"] += 1
    return suffix in IMAGE_SUFFIXES


def _entries(path: str, name: str) -> list[os.DirEntry[str]]:
    """Lists directories before links, so that a link is what is skipped."""
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda e: (e.is_symlink(), e.name))
    except OSError as error:
        raise UsageError(
            "Every directory below a folder of images must be readable. "
            f"Received: {name or path!r}: {error.strerror}"
        ) from error


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _said(left_out: collections.Counter[str]) -> str:
    """Returns counts by suffix, the most frequent first; safe to print."""
    parts = [
        f"{count} {shown(what)}"
        for what, count in left_out.most_common(_NAMED_AT_MOST)
    ]
    more = len(left_out) - len(parts)
    if more > 0:
        parts.append(f"and {more} more suffixes")
    return ", ".join(parts)
