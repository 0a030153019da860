"""Paths as users write them; it imports nothing heavy."""

import os
import re

from tf_instdisc.errors import UsageError

# `pathlib` turns `gs://bucket` into `gs:/bucket`. One letter is a drive.
_URL = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:/")


def local_path(path: str | os.PathLike, name: str = "path") -> str:
    """Expands `~`, and refuses URLs.

    Args:
        path: A path on a local or mounted file system; `~` and `~user` at its
            beginning are replaced by the user's home directory.
        name: The argument or flag that the path was given for.

    Returns:
        The path; only its `~` is changed.

    Raises:
        UsageError: If the path is a URL such as `gs://bucket/run`, or begins
            with `~` and names nobody's home directory.
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
            f"`{name}` must name an existing user where it begins with `~`. "
            f"Received: {name}={text!r}. Write ./{text} for a file or "
            "directory of that name."
        )
    return expanded
