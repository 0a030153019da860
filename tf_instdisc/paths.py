"""Paths as users write them; the module imports nothing heavy."""

import contextlib
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator
from typing import Literal

from tf_instdisc.errors import (
    MissingExtraError,
    StorageError,
    UsageError,
    require_extra,
)

# `pathlib` turns `gs://bucket` into `gs:/bucket`. A single letter is a drive.
_URL = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]+):/+(.*?)/*\s*", re.DOTALL)

# Extras and packages by scheme.
_EXTRAS = {
    **dict.fromkeys(("s3", "s3a"), ("s3", "s3fs")),
    **dict.fromkeys(("gs", "gcs"), ("gcs", "gcsfs")),
    **dict.fromkeys(("abfs", "abfss", "az"), ("azure", "adlfs")),
}

# TensorFlow takes the path of variables as a pattern (2.21).
_WILDCARDS = frozenset("*?[\\")

Role = Literal["input", "run", "output", "versions"]


def checked_path(path: str | os.PathLike, name: str = "path") -> str:
    """Expands `~`, and checks the scheme of a URL; uses no network.

    Args:
        path: A local path, or a URL such as `s3://bucket/run`; `~` and `~user`
            at its beginning are replaced by the user's home directory.
        name: The argument or flag for which the path was given.

    Returns:
        The path, in which only `~` is changed, or the URL with two slashes
        after its scheme and none at its end.

    Raises:
        UsageError: If fsspec does not know the scheme of a URL, a package for
            it is missing, or the path begins with `~` and the name of no
            existing user.
    """
    text = os.fsdecode(path)
    url = _URL.fullmatch(text)
    if url:
        scheme, rest = url[1].lower(), url[2]
        root = "/" if scheme in ("file", "local") else ""
        text = f"{scheme}://{root}{rest}"
        _check_url(text, name)
        return text
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise UsageError(
            f"`{name}` must name an existing user if it begins with `~`. "
            f"Received: {name}={text!r}. Write ./{text} for a file or "
            "directory of that name."
        )
    return expanded


def local_path(
    path: str | os.PathLike, name: str = "path", role: Role = "input"
) -> str:
    """Returns a local path, of the working copy if the path is a URL.

    Args:
        path: As in `checked_path`.
        name: The argument or flag for which the path was given.
        role: What the copy of a URL is for. `"run"` must be missing or hold a
            run. `"output"` is written to, and is another copy than that of
            an `"input"`. `"versions"` is an output with numbered versions;
            only its immediate subdirectories are created in the copy, without
            their files.

    Returns:
        The path, with `~` expanded. The copy of a URL is brought up to date;
        its path does not exist if there is nothing at the URL.

    Raises:
        UsageError: As in `checked_path`, or if a URL of a run holds something
            else.
        StorageError: If the URL cannot be read.
    """
    text = checked_path(path, name)
    if not is_url(text):
        return text
    from tf_instdisc import remote

    return remote.local_copy(text, name, role)


def is_url(path: str | os.PathLike) -> bool:
    """Returns whether a path is a URL such as `s3://bucket/run`."""
    return _URL.fullmatch(os.fsdecode(path)) is not None


def is_web(url: str) -> bool:
    """Returns whether a URL is a web address, which names a single file."""
    return url.startswith(("http://", "https://"))


def _check_url(url: str, name: str) -> None:
    """Raises UsageError unless fsspec can open the scheme of a URL."""
    import fsspec

    scheme = url.partition(":")[0]
    if scheme not in fsspec.available_protocols():
        known = ", ".join(sorted(fsspec.available_protocols()))
        raise UsageError(
            f"`{name}` must be a path, or a URL with a scheme of fsspec "
            f"({known}). Received: {name}={url!r}. Copy the files here, or "
            "mount the remote file system and give its path."
        )
    if scheme in _EXTRAS:
        try:
            require_extra(*_EXTRAS[scheme])
        except MissingExtraError as error:
            raise MissingExtraError(f"`{name}` is {url!r}. {error}") from error
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise MissingExtraError(
            f"`{name}` must be a path, or a URL whose packages are installed. "
            f"Received: {name}={url!r}. {error}."
        ) from error


CACHE_CURE = "Make room, or set XDG_CACHE_HOME to another directory for caches."


def caches() -> pathlib.Path:
    """Returns `$XDG_CACHE_HOME/tf_instdisc`, or `~/.cache/tf_instdisc`."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(home) / "tf_instdisc"


@contextlib.contextmanager
def without_wildcards(directory: str | os.PathLike) -> Iterator[str]:
    """Gives a directory a path from which TensorFlow can restore variables.

    TensorFlow looks for the files of a checkpoint or SavedModel as if their
    path were a pattern, in which `*`, `?`, `[` and `\\` do not stand for
    themselves.

    Yields:
        The path, or that of a temporary link to the directory.

    Raises:
        StorageError: If the link cannot be created.
    """
    path = os.fspath(directory)
    if not _WILDCARDS.intersection(path):
        yield path
        return
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            link = os.path.join(folder, "link")
            os.symlink(os.path.abspath(path), link, target_is_directory=True)
        except OSError as error:
            raise StorageError(
                f"{path} cannot be opened without a temporary link, as it "
                f"contains one of * ? [ \\: {error}. Rename it, or set TMPDIR."
            ) from error
        yield link
