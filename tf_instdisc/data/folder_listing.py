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
        UsageError: If a name is not UTF-8, or a directory cannot be read.
    """
    folder = local_path(folder, "folder")
    require_folder(folder)

    def fail(error: OSError) -> None:
        raise UsageError(
            "Every directory below a folder of images must be readable. "
            f"Received: {os.path.relpath(error.filename, folder)!r} in "
            f"folder={folder!r}: {error.strerror}"
        ) from error

    names: list[str] = []
    left_out: collections.Counter[str] = collections.Counter()
    # The folder itself counts as read: a link to it is a cycle.
    seen = {_identity(folder)}
    for path, below, files in os.walk(folder, onerror=fail, followlinks=True):
        prefix = f"{os.path.relpath(path, folder)}/".removeprefix("./")
        if prefix.count("/") == 1:
            seen = {_identity(folder)}
        if prefix and _identity(path) in seen:
            left_out["links to directories that were already read"] += 1
            below.clear()
            continue
        seen.add(_identity(path))
        below[:] = [name for name in below if not name.startswith(".")]
        # Directories come first, so that links rather than directories are
        # skipped.
        below.sort(key=lambda n: (os.path.islink(os.path.join(path, n)), n))
        for name in sorted(files):
            if name.startswith(".") or not _is_image(name, left_out):
                continue
            file = os.path.join(path, name)
            if os.path.isfile(file) or not os.path.exists(file):
                names.append(prefix + name)
            else:
                left_out["pipes and devices"] += 1
    return _in_order(names, left_out, folder, is_reported)


def require_folder(folder: str) -> None:
    """Raises FileNotFoundError unless a folder of images exists."""
    if not os.path.isdir(local_path(folder, "folder")):
        raise MissingFileError(
            f"The folder of images must exist. Received: folder={folder!r}"
        )


def image_paths_at(folder: str) -> list[str]:
    """Lists the images below a path or a URL, of which nothing is copied.

    Arguments, result and errors are those of `image_paths`.

    Raises:
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
    others = _counts(left_out)
    if not names:
        found = f" It holds other files: {others}." if others else ""
        raise MissingFileError(
            f"The folder must hold images ({', '.join(IMAGE_SUFFIXES)}). "
            f"Received: folder={folder!r}.{found}"
        )
    if others and is_reported:
        print(
            f"In {shown(folder)}, "
            f"{len(names)} images are used; left out: {others}",
            file=sys.stderr,
            flush=True,
        )
    return names


def _is_image(name: str, left_out: collections.Counter[str]) -> bool:
    """Returns whether the suffix is that of an image, and counts others."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in IMAGE_SUFFIXES:
        left_out[suffix or "without a suffix"] += 1
    return suffix in IMAGE_SUFFIXES


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _counts(left_out: collections.Counter[str]) -> str:
    """Returns counts by suffix, the most frequent first; safe to print."""
    parts = [
        f"{count} {shown(what)}"
        for what, count in left_out.most_common(_NAMED_AT_MOST)
    ]
    more = len(left_out) - len(parts)
    if more > 0:
        parts.append(f"and {more} more suffixes")
    return ", ".join(parts)
