"""The working copy of a URL: what it holds, downloads and uploads."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Iterator
from typing import Any

from tf_instdisc import atomic, progress
from tf_instdisc.checksums import sha256_of_file
from tf_instdisc.errors import StorageError
from tf_instdisc.paths import caches
from tf_instdisc.remote_manifest import object_name
from tf_instdisc.remote_store import Store, modified, version_of

_ATTEMPTS = 5
_CHUNK = 256  # Objects that are downloaded together.
_CHECKPOINTS = "checkpoints/"
# Of a run's files, those that stay on this machine.
_PRIVATE = ("lock", "features/", "checkpoints/partial/")


@dataclasses.dataclass
class State:
    """What is known of a copy, in `state.json` beside it.

    Attributes:
        manifest: The id of the manifest; None without one.
        files: By name, `object` and `version` of what the URL holds; for a
            run, the entries of the manifest.
        local: By name, size, time and inode of each file when it was the
            same here; the others were not downloaded.
    """

    manifest: str | None = None
    files: dict[str, Any] = dataclasses.field(default_factory=dict)
    local: dict[str, list[int] | None] = dataclasses.field(default_factory=dict)


class Copy:
    """The copy of a URL; `path` is a file or a directory."""

    def __init__(self, url: str):
        self.url = url
        self.store = Store(url)
        # Each process of a cluster has its own, as if on its own host.
        task = ""
        with contextlib.suppress(ValueError, AttributeError):
            task = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", "")
        key = hashlib.sha256(f"{url} {task}".encode()).hexdigest()[:16]
        self.folder = caches() / "remote" / key
        self.path = self.folder / (url.rpartition("/")[2] or "root")
        self.listed_at = -float("inf")

    def file(self, name: str) -> pathlib.Path:
        """Returns the path of a file; the name of the copy itself is ""."""
        return self.path / name if name else self.path

    @contextlib.contextmanager
    def alone(self) -> Iterator[State]:
        """Keeps other processes from the copy, and yields its state."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "sync", "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            state = State()
            if self.path.exists():
                with contextlib.suppress(OSError, ValueError, TypeError):
                    text = (self.folder / "state.json").read_text()
                    state = State(**json.loads(text))
            yield state

    def save(self, state: State) -> None:
        """Writes the state."""
        text = json.dumps(dataclasses.asdict(state))
        atomic.write_text(self.folder / "state.json", text)

    def names(self) -> list[str]:
        """Lists the files of a run that belong at the URL."""
        return sorted(
            name
            for folder, _, files in os.walk(self.path)
            for file in files
            if not file.startswith(".partial-")
            for path in [os.path.join(folder, file)]
            for name in [os.path.relpath(path, self.path)]
            if not name.startswith(_PRIVATE)
        )


def pull(copy: Copy, whole: bool = False) -> None:
    """Brings a copy up to date; `whole` includes the checkpoints of a run."""
    for _ in range(_ATTEMPTS):
        # An object that was listed may be replaced before it is read.
        with contextlib.suppress(FileNotFoundError), copy.alone() as state:
            _pull_once(copy, state, whole)
            copy.listed_at = time.monotonic()
            return
    raise StorageError(
        f"{copy.url} changes while it is read. Start the same command again."
    )


def _pull_once(copy: Copy, state: State, whole: bool) -> None:
    objects = copy.store.objects()
    manifest = copy.store.newest(objects)
    if manifest is not None:
        if manifest["id"] != state.manifest:
            state = _taken_over(copy, state, manifest)
        names = [
            name
            for name in state.files
            if name not in state.local
            and (whole or not name.startswith(_CHECKPOINTS))
        ]
    else:
        if state.manifest is not None:
            shutil.rmtree(copy.path)  # The run was removed.
            state = State()
        for name in state.files.keys() - objects.keys():
            state.local.pop(name, None)
            with contextlib.suppress(OSError):
                copy.file(name).unlink()
        versions = {n: version_of(info) for n, info in objects.items()}
        names = [
            name
            for name, version in versions.items()
            if state.files.get(name, {}).get("version") != version
            or state.local.get(name) != status_of(copy.file(name))
        ]
        for name in names:
            state.local.pop(name, None)
        state.files = {
            name: {"object": name, "version": version}
            for name, version in versions.items()
        }
    if names or manifest is None:
        _download(copy, state, names, objects)


def _taken_over(copy: Copy, old: State, manifest: dict[str, Any]) -> State:
    """Removes what the manifest does not say; returns the state after it."""
    files = manifest["files"]
    state = State(manifest["id"], files)
    for name in copy.names():
        path, status = copy.file(name), status_of(copy.file(name))
        wanted = files.get(name, {}).get("sha256")
        found = old.files.get(name, {}).get("sha256")
        if found is None or old.local.get(name) != status:
            found = wanted and sha256_of_file(path)
        if wanted is not None and found == wanted:
            state.local[name] = status
        else:
            path.unlink()
    for folder, _, _ in os.walk(copy.path, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)  # If it is empty.
    copy.path.mkdir(parents=True, exist_ok=True)
    copy.save(state)
    return state


def _download(
    copy: Copy, state: State, names: list[str], objects: dict[str, Any]
) -> None:
    incoming = copy.folder / "incoming"
    with progress.tracking(f"downloading {copy.url}", len(names)) as advance:
        for start in range(0, len(names), _CHUNK):
            chunk = names[start : start + _CHUNK]
            shutil.rmtree(incoming, ignore_errors=True)
            incoming.mkdir(parents=True)
            paths = [incoming / str(i) for i in range(len(chunk))]
            entries = [state.files[name] for name in chunk]
            copy.store.download([entry["object"] for entry in entries], paths)
            for name, entry, path in zip(chunk, entries, paths, strict=True):
                _require_same(copy, entry, path)
                seconds = modified(objects.get(entry["object"], {}))
                if seconds is not None:
                    os.utime(path, (seconds, seconds))
                target = copy.file(name)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
                state.local[name] = status_of(target)
            copy.save(state)
            advance(len(chunk))
    shutil.rmtree(incoming, ignore_errors=True)
    if copy.path.exists():
        copy.save(state)


def _require_same(
    copy: Copy, entry: dict[str, Any], path: pathlib.Path
) -> None:
    wanted = entry.get("sha256")
    if wanted is not None and sha256_of_file(path) != wanted:
        raise StorageError(
            f"{copy.url}/{entry['object']} is damaged: it is not what was "
            "written. Restore it from a copy."
        )


def status_of(path: pathlib.Path) -> list[int] | None:
    """Returns what changes when a file is written; None without the file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def push(copy: Copy) -> None:
    """Writes a run to its URL."""
    with copy.alone() as state:
        objects = copy.store.objects()
        manifest = copy.store.newest(objects)
        if state.manifest != (manifest and manifest["id"]):
            raise StorageError(
                f"{copy.url} was written by another process meanwhile. Start "
                "the same command again: it continues from what that one has "
                "written."
            )
        files, local = _upload(copy, state, objects)
        if files != state.files or state.manifest is None:
            if not files and manifest is None:
                return
            state.manifest = copy.store.write_manifest(files, objects)
        state.files, state.local = files, local
        copy.save(state)


def _upload(
    copy: Copy, state: State, objects: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, list[int] | None]]:
    """Uploads changed files; returns the manifest's entries and `local`."""
    files: dict[str, Any] = {}
    local: dict[str, Any] = {}
    if state.manifest is not None:
        # What was not downloaded is still there.
        files = {n: e for n, e in state.files.items() if n not in state.local}
    pending = copy.names()
    while pending:
        changed: dict[str, pathlib.Path] = {}
        for name in pending:
            path, status = copy.file(name), status_of(copy.file(name))
            local[name] = status
            entry = state.files.get(name, {})
            if "sha256" not in entry or state.local.get(name) != status:
                digest = sha256_of_file(path)
                entry = {
                    "object": object_name(name, digest),
                    "size": path.stat().st_size,
                    "sha256": digest,
                }
                there = objects.get(entry["object"], {})
                # A killed process may have written a part of it.
                if there.get("size") != entry["size"]:
                    changed[entry["object"]] = path
            files[name] = entry
        copy.store.upload(
            list(changed.values()), [copy.store.path(n) for n in changed]
        )
        # TensorBoard's files grow at any time.
        pending = [n for n in pending if status_of(copy.file(n)) != local[n]]
    return files, local
