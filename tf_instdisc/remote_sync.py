"""Brings a working copy up to date, and writes a run to its URL."""

import contextlib
import os
import pathlib
import shutil
import sys
import time
import uuid
from typing import Any

from tf_instdisc import progress
from tf_instdisc.checksums import sha256_of_file
from tf_instdisc.errors import StorageError, UsageError
from tf_instdisc.remote_copy import Copy, State, is_private, status_of
from tf_instdisc.remote_manifest import (
    modified,
    numbers,
    object_name,
    version_of,
)
from tf_instdisc.text import listed

_ATTEMPTS = 5
_CHUNK = 256  # Objects that are downloaded together.
_CHECKPOINTS = "checkpoints/"
_RUN = {"run.json", "flags.txt"}  # A run has one of them.
_SAVE_SECONDS = 30.0  # What a killed download may repeat.


def pull(
    copy: Copy, whole: bool = False, run_argument: str | None = None
) -> None:
    """Brings a copy up to date.

    Args:
        whole: Whether to download the checkpoints of a run, too, and not only
            their manifests.
        run_argument: The name of an argument that refuses a URL with anything
            but a run.
    """
    for _ in range(_ATTEMPTS):
        # An object that was listed may be replaced before it is read.
        with contextlib.suppress(FileNotFoundError), copy.locked() as state:
            objects = copy.store.objects()
            if run_argument and objects:
                _require_run(copy, objects, run_argument)
            _pull_once(copy, state, objects, whole)
            copy.listed_at = time.monotonic()
            return
    raise StorageError(
        f"{copy.url} lacks objects that it names, or changes while it is read. "
        "Start the same command again."
    )


def _require_run(copy: Copy, objects: dict[str, Any], name: str) -> None:
    """Raises UsageError, before anything is downloaded, without a run."""
    if not numbers(objects) and not _RUN & {*objects}:
        others = [other for other in objects if other != "lock"]
        if others:
            raise UsageError(
                f"`{name}` must be missing, empty, or hold a run. Received: "
                f"{name}={copy.url}, which holds {listed(others, 3)}"
            )


def _pull_once(
    copy: Copy, state: State, objects: dict[str, Any], whole: bool
) -> None:
    manifest = copy.store.newest(objects)
    state.accept(manifest)
    if manifest is not None:
        if manifest["id"] != state.manifest:
            with copy.writing():
                state = _reset_to(copy, state, manifest)
        # The cache may have lost files. Those that a killed process removed,
        # old checkpoints, come back for a while.
        present = {
            n: s for n, s in state.local.items() if copy.file(n).exists()
        }
        if present != state.local:
            state.local = present
            copy.save(state)
        names = [
            name
            for name in state.files
            if name not in state.local
            and (whole or not _is_of_checkpoint(name))
        ]
    else:
        if state.manifest is not None:
            raise StorageError(
                f"{copy.url} no longer holds the run whose working copy is in "
                f"{copy.folder}. Check the address, the credentials and the "
                "endpoint. If the run was removed on purpose, remove this "
                "folder and start the same command again."
            )
        if _RUN & {*objects} or {*objects} == {"lock"}:
            objects = {n: o for n, o in objects.items() if not is_private(n)}
        for name in state.files.keys() - objects.keys():
            state.local.pop(name, None)
            with contextlib.suppress(OSError):
                copy.file(name).unlink()
        with copy.writing():
            _remove_others(copy, objects)
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


def _is_of_checkpoint(name: str) -> bool:
    """Returns whether a file is needed only to restore a checkpoint."""
    return name.startswith(_CHECKPOINTS) and not name.endswith("/manifest.json")


def _remove_others(copy: Copy, objects: dict[str, Any]) -> None:
    """Removes from an input what the URL does not hold."""
    if copy.is_output or any(copy.file(name).exists() for name in _RUN):
        return  # It may hold what was not uploaded.
    for folder, _, files in os.walk(copy.path):
        for file in files:
            path = pathlib.Path(folder, file)
            if path.relative_to(copy.path).as_posix() not in objects:
                path.unlink(missing_ok=True)
    _remove_empty_folders(copy.path)


def _remove_empty_folders(path: pathlib.Path) -> None:
    for folder, _, _ in os.walk(path, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def _reset_to(copy: Copy, old: State, manifest: dict[str, Any]) -> State:
    """Deletes local files that differ from the manifest.

    Returns:
        The new state.
    """
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
    _remove_empty_folders(copy.path)
    copy.path.mkdir(parents=True, exist_ok=True)
    copy.save(state)
    return state


def _download(
    copy: Copy, state: State, names: list[str], objects: dict[str, Any]
) -> None:
    incoming = copy.folder / "incoming"
    saved_at = time.monotonic()
    with progress.tracking(f"downloading {copy.url}", len(names)) as advance:
        for start in range(0, len(names), _CHUNK):
            chunk = names[start : start + _CHUNK]
            shutil.rmtree(incoming, ignore_errors=True)
            with copy.writing():
                incoming.mkdir(parents=True)
            paths = [incoming / str(i) for i in range(len(chunk))]
            entries = [state.files[name] for name in chunk]
            copy.store.download([entry["object"] for entry in entries], paths)
            for name, entry, path in zip(chunk, entries, paths, strict=True):
                _require_same(copy, entry, path)
                seconds = modified(objects.get(entry["object"], {}))
                target = copy.file(name)
                with copy.writing():
                    if seconds is not None:
                        os.utime(path, (seconds, seconds))
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(path, target)
                state.local[name] = status_of(target)
            if time.monotonic() - saved_at > _SAVE_SECONDS:
                copy.save(state)
                saved_at = time.monotonic()
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


def push(copy: Copy) -> None:
    """Writes a run to its URL."""
    with copy.locked() as state:
        objects = copy.store.objects()
        is_ours = False
        with contextlib.suppress(FileNotFoundError):  # Another one removed it.
            manifest = copy.store.newest(objects)
            state.accept(manifest)
            is_ours = state.manifest == (manifest and manifest["id"])
        if not is_ours:
            raise StorageError(
                f"{copy.url} was written by another process meanwhile. Start "
                "the same command again: it continues from what that one has "
                "written."
            )
        files, local = _upload(copy, state, objects)
        if files != state.files or state.manifest is None:
            if not files and state.manifest is None:
                return
            _write_manifest(copy, state, files, local, objects)
        else:
            state.local = local
            copy.save(state)


def _write_manifest(
    copy: Copy,
    state: State,
    files: dict[str, Any],
    local: dict[str, Any],
    objects: dict[str, Any],
) -> None:
    identity = uuid.uuid4().hex
    # First, so that a manifest whose upload fails late is known as our own.
    state.pending = {"manifest": identity, "local": local}
    copy.save(state)
    copy.store.write_manifest(files, objects, identity)
    copy.save(State(identity, files, local))
    try:
        copy.store.remove_unused(files, objects)
    except StorageError as error:
        print(
            f"warning: old objects stay until the next change. {error}",
            file=sys.stderr,
        )


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
