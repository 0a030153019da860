"""Local working copies of what URLs name.

All other code reads and writes local files. A URL is opened as a copy below
the user's caches, which `local_copy` brings up to date. `push` writes a run
back, and `send` an output.

A run is what its newest manifest says (`remote_manifest.py`), and the copy
remembers which manifest it comes from. If that is still the newest one, files
that have changed here since, as by a process that was killed before it could
push, are kept. Otherwise the run was continued elsewhere, and the copy is made
equal to the manifest. The two are never mixed.
"""

import math
import os
import pathlib
import time

from tf_instdisc import remote_sync
from tf_instdisc.errors import UsageError
from tf_instdisc.paths import Role, is_web
from tf_instdisc.remote_copy import Copy, status_of
from tf_instdisc.remote_manifest import version_of
from tf_instdisc.remote_store import Store
from tf_instdisc.text import shown

# Within these seconds, a command lists a URL once.
_FRESH = 60.0
# A server that polls for new versions loads a model once this file is there.
_LAST = "saved_model.pb"

# By URL, and by whether it is an output.
_copies: dict[tuple[str, bool], Copy] = {}


def local_copy(url: str, name: str, role: Role) -> str:
    """Returns the path of the copy of a URL, and brings it up to date.

    Args:
        url: A URL that `paths.checked_path` has returned.
        name: The argument or flag for which it was given.
        role: As in `paths.local_path`.

    Returns:
        The path. It does not exist if there is nothing at the URL.

    Raises:
        StorageError: If the URL cannot be read.
        UsageError: If the URL of a run holds something else, or the role is
            not `"input"` and the URL a web address.
    """
    if role != "input" and is_web(url):
        raise UsageError(
            f"`{name}` must be a path, or a URL that can be written to and "
            f"listed. Received: {name}={url!r}. Of http:// and https://, only "
            "single files are read."
        )
    parent, _, file = url.rpartition("/")
    if file.endswith(".keras") and Store(parent).is_run():
        # The object has another name.
        run = pathlib.Path(local_copy(parent, name, "run"))
        if (run / file).exists():
            return str(run / file)
    is_output = role in ("output", "versions")
    copy = _copies.get((url, is_output))
    if copy is None:
        copy = _copies[url, is_output] = Copy(url, is_output)
    if role == "versions":
        for version in copy.store.folders():
            (copy.path / version).mkdir(parents=True, exist_ok=True)
    elif time.monotonic() - copy.listed_at > _FRESH:
        remote_sync.pull(copy, run_argument=name if role == "run" else None)
    return str(copy.path)


def named(text: str) -> str:
    """Returns a message with URLs in place of the paths of their copies."""
    for copy in _copies.values():
        text = text.replace(str(copy.path), copy.url)
    return text


def shown_path(path: str | os.PathLike) -> str:
    """Returns a path to print, or the URL of whose copy it is a part."""
    return shown(named(os.fspath(path)))


def copy_of(path: str | os.PathLike) -> Copy | None:
    """Returns the copy of a URL that a path is, or lies in."""
    real = os.path.realpath(path)
    for copy in _copies.values():
        if f"{real}/".startswith(f"{os.path.realpath(copy.folder)}/"):
            return copy
    return None


def refresh(path: str | os.PathLike, *, whole: bool = False) -> None:
    """Updates the working copy that contains a path, if there is one.

    Args:
        whole: Whether to download the checkpoints of a run, too. Otherwise,
            only their manifests are downloaded.
    """
    copy = copy_of(path)
    if copy is not None:
        remote_sync.pull(copy, whole)


def push(path: str | os.PathLike) -> None:
    """Writes a run to its URL; does nothing for a local one.

    Call it only while the run is locked.

    Raises:
        StorageError: If the URL cannot be written, or another process has
            written to it meanwhile. The copy is unchanged.
    """
    copy = copy_of(path)
    if copy is not None:
        remote_sync.push(copy)


def send(path: str | os.PathLike) -> None:
    """Uploads a file or a directory if it lies in a copy.

    A file that is missing here is removed there.
    """
    copy = copy_of(path)
    if copy is None:
        return
    root = os.path.realpath(copy.path)
    paths = [pathlib.Path(os.path.realpath(path))]
    if not paths[0].exists():
        copy.store.remove_path(
            copy.store.root + str(paths[0]).removeprefix(root)
        )
        return
    if paths[0].is_dir():
        paths = sorted(p for p in paths[0].rglob("*") if p.is_file())
    with copy.locked() as state:
        for is_last in (False, True):
            part = [p for p in paths if (p.name == _LAST) == is_last]
            # A file may lie beside the copy, like OUTPUT.failed.txt.
            names = [str(p).removeprefix(root) for p in part]
            copy.store.upload(part, [copy.store.root + n for n in names])
        for other in _copies.values():
            if other.url == copy.url:
                other.listed_at = -math.inf
        if paths == [pathlib.Path(root)]:
            version = version_of(copy.store.objects().get("", {}))
            state.files[""] = {"object": "", "version": version}
            state.local[""] = status_of(copy.path)
            copy.save(state)
