"""Checkpoints: complete or absent, with checksums; the last few are kept.

A checkpoint is a directory `checkpoint-000012` of TensorFlow's files and a
manifest with the progress of the run and the SHA-256 of each file. The
directory gets its name once all of it is on disk.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tf_instdisc import atomic, remote
from tf_instdisc.checksums import sealed, sha256_of_file, unsealed
from tf_instdisc.errors import StorageError
from tf_instdisc.paths import without_wildcards

_PARTIAL = "partial"
_MANIFEST = "manifest.json"
_STATE = "state"


@dataclasses.dataclass(frozen=True)
class Saved:
    """A checkpoint that was read and verified.

    Attributes:
        path: Its directory.
        progress: The progress that was given to `write`.
    """

    path: pathlib.Path
    progress: dict


def write(
    directory: pathlib.Path,
    state: tf.train.Checkpoint,
    progress: dict,
    keep: int,
) -> pathlib.Path:
    """Writes a checkpoint, removes old ones, and returns its directory.

    Args:
        directory: The directory of the run's checkpoints.
        progress: The progress of the run, for JSON.
        keep: Number of checkpoints to keep, at least 1.

    Raises:
        StorageError: If it cannot be written. Older ones are unchanged.
    """
    partial = directory / _PARTIAL
    older = _list(directory)
    number = _number(older[-1]) + 1 if older else 1
    path = directory / f"checkpoint-{number:06d}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        state.write(os.fspath(partial / _STATE))
        files = {f.name: sha256_of_file(f) for f in partial.iterdir()}
        manifest = {"progress": progress, "files": files}
        (partial / _MANIFEST).write_text(sealed(manifest))
        atomic.rename_directory(partial, path)
    except (OSError, tf.errors.OpError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        kept = f"{older[-1]} is kept." if older else "There is no older one."
        raise StorageError(
            f"The checkpoint {path} cannot be written: {_reason(error)}. "
            f"{kept} Make room or make the directory writable, then start the "
            "same command again."
        ) from error
    for old in [*older, path][:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def find_newest(directory: pathlib.Path) -> tuple[Saved | None, list[str]]:
    """Finds the newest valid checkpoint.

    Downloads the checkpoints of a run at a URL.

    Args:
        directory: The directory of the run's checkpoints; may be missing.

    Returns:
        The checkpoint, None if there is none at all, and a message for each
        newer one that is damaged.

    Raises:
        StorageError: If there are checkpoints but all are damaged.
    """
    remote.refresh(directory, whole=True)
    damages: list[str] = []
    for path in reversed(_list(directory)):
        try:
            return Saved(path, _verified_progress(path)), damages
        except (OSError, ValueError) as error:
            damages.append(f"checkpoint {path} is damaged: {_reason(error)}")
    if damages:
        raise StorageError(
            "No checkpoint can be used: " + "; ".join(damages) + ". Restore "
            "one from a copy, or train from the start in another run_dir."
        )
    return None, damages


def newest_progress(directory: pathlib.Path) -> dict[str, Any]:
    """Returns the progress in the newest checkpoint; empty without one.

    Only manifests are read and checked. The other files may be damaged, or,
    of a run at a URL, not downloaded.
    """
    for path in reversed(_list(directory)):
        with contextlib.suppress(OSError, ValueError):
            return unsealed((path / _MANIFEST).read_text())["progress"]
    return {}


def restore(saved: Saved, state: Mapping[str, tf.Variable]) -> None:
    """Restores a checkpoint into the variables of its keywords.

    A run without momentum stores no velocities. If it is continued with it,
    they keep their values, zeros.

    Raises:
        StorageError: If the variables do not fit.
    """
    try:
        with without_wildcards(saved.path) as folder:
            path = os.path.join(folder, _STATE)
            reader = tf.train.load_checkpoint(path)
            stored = reader.get_variable_to_shape_map()
            names = {name.partition("/")[0] for name in stored}
            found = {
                name: variable
                for name, variable in state.items()
                if name in names or not name.startswith("optimizer_")
            }
            status = tf.train.Checkpoint(**found).read(path)
            status.assert_existing_objects_matched()
    except (AssertionError, ValueError, tf.errors.OpError) as error:
        raise StorageError(
            f"{saved.path} does not fit this model: {_reason(error)}"
        ) from error


def _list(directory: pathlib.Path) -> list[pathlib.Path]:
    paths = directory.glob("checkpoint-*")
    # Others are copies, such as `checkpoint-000012.bak`.
    found = [p for p in paths if re.fullmatch(r"checkpoint-\d+", p.name)]
    return sorted(found, key=_number)


def _number(path: pathlib.Path) -> int:
    return int(path.name.rpartition("-")[2])


def _verified_progress(path: pathlib.Path) -> dict[str, Any]:
    manifest = unsealed((path / _MANIFEST).read_text())
    for name, checksum in manifest["files"].items():
        if sha256_of_file(path / name) != checksum:
            raise ValueError(f"{name} has the wrong checksum")
    return manifest["progress"]


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({error.filename})"
    text = str(getattr(error, "message", error)).partition("\n")[0]
    # TensorFlow puts its node before the file, and its op after it.
    return re.sub(r"\{\{.*\}\} | \[Op:\w+\]", "", text)
