"""Paths as users write them; the module imports nothing heavy."""

import os
import re

from tf_instdisc.errors import UsageError

# `pathlib` turns `gs://bucket` into `gs:/bucket`. A single letter is a drive.
_URL = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:/")


def local_path(path: str | os.PathLike, name: str = "path") -> str:
    """Expands `~`, and rejects URLs.

    Args:
        path: A path on a local or mounted file system; `~` and `~user` at its
            beginning are replaced by the user's home directory.
        name: The argument or flag for which the path was given.

    Returns:
        The path, in which only `~` is changed.

    Raises:
        UsageError: If the path is a URL such as `gs://bucket/run`, or begins
            with `~` and the name of no existing user.
    """
    text = os.fsdecode(path)
    if _URL.match(text):
        raise UsageError(
            f"`{name}` must be a path on a local or mounted file system; URLs "
            f"are not supported. Received: {name}={text!r}. Copy the files "
            "here, or mount the remote file system and give its path."
        )
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise UsageError(
            f"`{name}` must name an existing user if it begins with `~`. "
            f"Received: {name}={text!r}. Write ./{text} for a file or "
            "directory of that name."
        )
    return expanded
