"""Trained runs that come with the package and are opened by name.

A shipped run takes a third of the space of a run directory: the kernels of the
encoder are float16, and the rows of the bank int8. It is unpacked once, into
an ordinary run directory among the user's caches, which every command reads.
`benchmarks/ship.py` packs a run. The module imports nothing heavy before a run
is unpacked.
"""

import dataclasses
import os
import pathlib
import shutil
import sys

import numpy as np

from tf_instdisc import atomic, checksums
from tf_instdisc.config.fields import require_choice
from tf_instdisc.paths import CACHE_CURE, caches, local_path
from tf_instdisc.runs import bank as bank_file
from tf_instdisc.runs.bank import EncodedBy
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.text import shown

FOLDER = pathlib.Path(__file__).parent.parent / "weights"
WEIGHTS = "weights.npz"

_CURE = "Install tf_instdisc again."


def names() -> tuple[str, ...]:
    """Returns the names of the shipped runs, sorted."""
    return tuple(sorted(path.parent.name for path in FOLDER.glob("*/run.json")))


def located(path: str | os.PathLike, name: str = "path") -> str:
    """Returns the path of a run, which may be the name of a shipped one.

    Args:
        path: A path, or a name in `names()`. A file or directory of that name
            takes precedence.
        name: The argument or flag for which the path was given.

    Raises:
        StorageError: If a URL cannot be read.
    """
    # The address of a file on the web may end with a signature.
    text = os.fspath(path).partition("?")[0]
    is_file = text.endswith(".keras")
    path = local_path(path, name, "input" if is_file else "run")
    if path not in names() or os.path.exists(path):
        return path
    return str(unpack(path))


def unpack(name: str) -> pathlib.Path:
    """Returns the directory of a shipped run, and writes it the first time.

    Args:
        name: One of `names()`.

    Returns:
        A run directory below `$XDG_CACHE_HOME/tf_instdisc`, or
        `~/.cache/tf_instdisc`.

    Raises:
        UsageError: If there is no such run.
        StorageError: If the directory cannot be written.
        DamagedFileError: If the files of the package are damaged.
    """
    require_choice("name", name, names())
    packed = RunDirectory(FOLDER / name)
    # It lists the digests of the others, which are checked when they are read.
    version = checksums.sha256_of_file(packed.path / checksums.FILE)[:8]
    target = caches() / f"{name}-{version}"
    files = RunDirectory(target)
    if _is_complete(files):
        return target
    print(f"Unpacking {name} into {shown(str(target))}", file=sys.stderr)
    with atomic.reporting(str(target.parent), CACHE_CURE):
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic.filling(target) as partial:
            _write_run(packed, RunDirectory(partial))
            try:
                atomic.rename_directory(partial, target)
            except OSError:
                # Otherwise, another process has unpacked it in the meantime.
                if not _is_complete(files):
                    shutil.rmtree(target, ignore_errors=True)
                    atomic.rename_directory(partial, target)
    return target


def _is_complete(run: RunDirectory) -> bool:
    return run.bank.exists() and run.encoder.exists()


def _write_run(packed: RunDirectory, run: RunDirectory) -> None:
    import keras

    record = packed.read_record()
    with checksums.arrays(packed.path / WEIGHTS, _CURE) as fields:
        encoder = keras.models.model_from_json(str(fields["architecture"]))
        encoder.set_weights(
            [
                _weight(fields, i, value.shape)
                for i, value in enumerate(encoder.weights)
            ]
        )
        rows = fields["int8_rows"].astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        bank = bank_file.with_rows(rows, fields)
    run.save_record(record)
    run.save_encoder(encoder)
    origin = EncodedBy(run.encoder_digest(), record.config.optimizer.epochs)
    run.save_bank(dataclasses.replace(bank, encoded_by=origin))


def _weight(fields: np.lib.npyio.NpzFile, i: int, shape: tuple) -> np.ndarray:
    if f"full_{i}" in fields:
        return fields[f"full_{i}"]
    bits = fields[f"high_{i}"].astype(np.uint16) << 8 | fields[f"low_{i}"]
    return bits.view(np.float16).astype(np.float32).reshape(shape)
