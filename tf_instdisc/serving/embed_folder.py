"""Embeds a folder of images into one file, in resumable parts."""

import concurrent.futures
import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_instdisc import atomic, progress, remote
from tf_instdisc.data.folder_listing import image_paths
from tf_instdisc.data.image_files import require_lasting
from tf_instdisc.errors import UsageError
from tf_instdisc.paths import local_path
from tf_instdisc.runs import lock
from tf_instdisc.serving.embedder import BATCH_SIZE, Embedder, embed_contents
from tf_instdisc.serving.embedding_file import table_of
from tf_instdisc.text import shown

# Number of images in a part, which is the most that an interruption loses.
_PART = 512

_TASK = "task.json"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of embedding a folder.

    Attributes:
        num_embedded: Number of images in the output.
        failed: Relative paths of images that could not be read.
    """

    num_embedded: int
    failed: tuple[str, ...]


def embed_folder(
    folder: str,
    output: str,
    embedder: Embedder,
    source: str,
    batch_size: int = BATCH_SIZE,
    num_workers: int = 2,
) -> Outcome:
    """Embeds all images below a folder.

    The same call continues after an interruption: finished parts are kept in
    `OUTPUT.parts` until all are complete. A part in which a file was missing or
    could not be opened is embedded again.

    Args:
        folder: The folder, including its subfolders.
        output: `.npz` with `ids`, `names`, `embeddings` and one `digest`, or
            `.parquet` with the columns of `table_of`; must not exist. Names are
            paths relative to the folder, and ids their positions among all
            sorted names.
        embedder: Takes files as bytes and returns `embedding` and `valid`,
            like the signature `image_bytes`.
        source: Identifies the model, as the digest of the output; parts
            of another model are rejected.
        batch_size: Number of images in each call of the embedder.
        num_workers: Number of batches that are read or embedded at a time.

    Returns:
        The number of embedded images and the failed ones, which are also
        listed in `OUTPUT.failed.txt`, escaped by `text.shown`.

    Raises:
        FileNotFoundError: If the folder is missing or contains no images.
        ValueError: If the output exists, a path is a URL with an unknown
            scheme, no image can be read, the parts belong to another model or
            other images, or the embedder does not return a row of finite
            numbers for each image. An invalid response is not kept.
        LockedError: If another process of this host is writing to the output.
        StorageError: If the parts cannot be written, a URL cannot be read or
            written, or an image cannot be read because of its disk or network.
    """
    folder = local_path(folder, "folder")
    output = local_path(output, "output", "output")
    target, parts = pathlib.Path(output), pathlib.Path(f"{output}.parts")
    names = image_paths(folder)
    try:
        with lock.holding(parts, is_run=False):
            if target.exists() and not (parts / _TASK).exists():
                raise UsageError(
                    f"`output` must not exist. Received: output={output}"
                )
            _open_parts(parts, {"source": source, "names": names})
            with (
                progress.tracking("embedding images", len(names)) as advance,
                concurrent.futures.ThreadPoolExecutor(num_workers) as pool,
            ):
                for start in range(0, len(names), _PART):
                    file = parts / f"{start:09d}.npz"
                    part = names[start : start + _PART]
                    if not _is_whole(file):
                        _write_part(
                            folder, embedder, batch_size, file, part, pool
                        )
                    advance(len(part))
            return _finish(folder, names, target, parts, source)
    finally:
        # The directory remains if an earlier process created it. If another
        # process uses it now, it is not empty and stays.
        with contextlib.suppress(OSError):
            parts.rmdir()


def _finish(
    folder: str,
    names: Sequence[str],
    target: pathlib.Path,
    parts: pathlib.Path,
    source: str,
) -> Outcome:
    """Joins the parts to the output, and uploads it if it is remote."""
    valid, embeddings = _join(parts)
    if not valid.any():
        _remove(parts)
        raise UsageError(
            f"No image in {folder} can be read. Received: {len(names)} files"
        )
    kept = [
        name for name, is_valid in zip(names, valid, strict=True) if is_valid
    ]
    failed = sorted(set(names) - set(kept))
    list_of_failed = pathlib.Path(f"{target}.failed.txt")
    if failed:
        listing = "".join(f"{shown(name)}\n" for name in failed)
        atomic.write_text(list_of_failed, listing)
    else:
        list_of_failed.unlink(missing_ok=True)
    # This file is written last; then only the parts remain to be removed.
    _write_output(
        target, np.flatnonzero(valid), kept, embeddings[valid], source
    )
    remote.send(list_of_failed)
    remote.send(target)
    _remove(parts)
    return Outcome(len(kept), tuple(failed))


def _remove(parts: pathlib.Path) -> None:
    for file in parts.iterdir():
        if file.name not in (_TASK, lock.FILE):
            file.unlink()
    (parts / _TASK).unlink()


def _open_parts(parts: pathlib.Path, task: dict) -> None:
    file = parts / _TASK
    text = json.dumps(task)
    if not file.exists():
        atomic.write_text(file, text)
    elif file.read_text("utf-8") != text:
        raise UsageError(
            f"{parts} contains parts of another model or of other images. "
            "Remove it, or choose another `output`."
        )


def _write_part(
    folder: str,
    embedder: Embedder,
    batch_size: int,
    file: pathlib.Path,
    names: Sequence[str],
    pool: concurrent.futures.Executor,
) -> None:
    batches = [
        names[i : i + batch_size] for i in range(0, len(names), batch_size)
    ]
    responses = list(pool.map(lambda b: _embed(folder, b, embedder), batches))
    dims = {response["embedding"].shape[1] for response in responses}
    earlier = next(iter(sorted(file.parent.glob("[0-9]*.npz"))), None)
    if earlier:
        with np.load(earlier) as part:
            dims.add(part["embedding"].shape[1])
    if len(dims) > 1:
        raise UsageError(
            "The model must return embeddings of one length. Received: lengths "
            f"{sorted(dims)}. If another model is served now, remove "
            f"{file.parent} and start again."
        )
    embedding, valid = (
        np.concatenate([response[key] for response in responses])
        for key in ("embedding", "valid")
    )
    is_whole = all(response["is_whole"] for response in responses)
    with atomic.replacing(file) as partial:
        np.savez(partial, embedding=embedding, valid=valid, is_whole=is_whole)


def _is_whole(file: pathlib.Path) -> bool:
    """Returns whether a part exists, and all of its files could be opened."""
    if not file.exists():
        return False
    with np.load(file) as part:
        return bool(part.get("is_whole", True))


def _embed(
    folder: str, names: Sequence[str], embedder: Embedder
) -> dict[str, Any]:
    contents = [_read(pathlib.Path(folder, name)) for name in names]
    response = embed_contents(contents, embedder)
    return {**response, "is_whole": all(contents)}


def _read(path: pathlib.Path) -> bytes:
    """Reads a file; one that is missing or may not be opened is empty."""
    try:
        return path.read_bytes()
    except OSError as error:
        require_lasting(
            error,
            str(path),
            f"({type(error).__name__}: {error.strerror}). Check the disk or "
            "the network, then run the same command again; parts that are "
            "complete are kept.",
        )
        return b""  # Fails like other bytes that are not an image.


def _join(parts: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    columns: tuple[list, list] = [], []
    for file in sorted(parts.glob("[0-9]*.npz")):
        with np.load(file) as part:
            columns[0].append(part["valid"])
            columns[1].append(part["embedding"])
    return np.concatenate(columns[0]), np.concatenate(columns[1])


def _write_output(
    target: pathlib.Path,
    ids: np.ndarray,
    names: Sequence[str],
    embeddings: np.ndarray,
    source: str,
) -> None:
    if target.suffix == ".npz":
        with atomic.replacing(target) as partial:
            np.savez(
                partial,
                ids=ids,
                names=np.array(names),
                embeddings=embeddings,
                digest=source,
            )
        return
    from pyarrow import parquet

    with atomic.replacing(target) as partial:
        parquet.write_table(table_of(ids, names, embeddings, source), partial)
