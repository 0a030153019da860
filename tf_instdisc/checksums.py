"""Checksums of the files of a directory, in `checksums.json` beside them.

A file that is written and read through this module either has the content
that was written, or is reported by name. A file that is not listed is not
checked, so that directories of earlier versions can still be opened.

Before a file is replaced, the digest of the new content is listed beside that
of the old one; afterwards only the new one remains. If the process is killed
in between, either content satisfies the list.

A `cure` is the last sentence of the message about a damaged file: what to do.
"""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tf_instdisc import atomic
from tf_instdisc.errors import DamagedFileError, UsageError

FILE = "checksums.json"

_ABSENT = None
_updating = threading.Lock()


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Works as `atomic.replacing`, and lists the digest of the new content."""
    new = ""

    def announce(partial: pathlib.Path) -> None:
        nonlocal new
        new = sha256_of_file(partial)
        with _updating:
            files = _load(path.parent)
            old = files.get(path.name)
            if old is None and path.exists():
                old = [sha256_of_file(path)]
            files[path.name] = [new, *(old or [_ABSENT])]
            _save(path.parent, files)

    with atomic.replacing(path, announce) as partial:
        yield partial
    with _updating:
        # Another process may have written the list without this file.
        files = _load(path.parent)
        files[path.name] = [new]
        _save(path.parent, files)


def write_text(path: pathlib.Path, text: str) -> None:
    """Works as `atomic.write_text`, and lists the digest of the text."""
    with replacing(path) as partial:
        partial.write_bytes(text.encode())


def is_missing(path: pathlib.Path) -> bool:
    """Returns whether a file is listed but does not exist."""
    if path.exists():
        return False
    return _ABSENT not in _load(path.parent).get(path.name, [_ABSENT])


def require_present(path: pathlib.Path, cure: str) -> None:
    """Raises DamagedFileError if a file is listed but does not exist."""
    if is_missing(path):
        raise DamagedFileError(f"{path} is missing. {cure}")


def digest(path: pathlib.Path, cure: str) -> str:
    """Returns the SHA-256 of a file; raises as `opened` does."""
    with opened(path, cure) as (_, found):
        return found


def read_text(path: pathlib.Path, cure: str) -> str:
    """Returns the text of a file; raises as `opened` does."""
    with opened(path, cure) as (file, _), parsing(path, cure):
        return file.read().decode()


@contextlib.contextmanager
def opened(
    path: pathlib.Path, cure: str
) -> Iterator[tuple[io.BufferedReader, str]]:
    """Opens a file and checks it.

    Yields:
        The file, and its SHA-256.

    Raises:
        DamagedFileError: If the file is listed but missing, or if its digest
            is not listed.
    """
    require_present(path, cure)
    for attempt in range(2):
        listed = _load(path.parent).get(path.name)
        with open(path, "rb") as file:
            found = _sha256(file)
            if listed is None or found in listed:
                file.seek(0)
                yield file, found
                return
        # Another process may have replaced it after the list was read.
        if attempt:
            raise DamagedFileError(
                f"{path} is damaged: it is not what was written. {cure}"
            )


@contextlib.contextmanager
def arrays(path: pathlib.Path, cure: str) -> Iterator[Any]:
    """Opens an `.npz` file and checks it.

    Yields:
        The arrays by name.

    Raises:
        DamagedFileError: If the file is not what was written, or if the block
            fails to read it.
    """
    import numpy as np

    with (
        opened(path, cure) as (file, _),
        parsing(path, cure),
        np.load(file) as fields,
    ):
        yield fields


def write_arrays(path: pathlib.Path, **fields: Any) -> None:
    """Writes an `.npz` file atomically, and lists its digest."""
    import numpy as np

    with replacing(path) as partial:
        np.savez(partial, **fields)


def kept(
    path: pathlib.Path, name: str, key: str, compute: Callable[[], Any]
) -> Any:
    """Returns an array that was kept by an earlier call, or computes it.

    Args:
        path: `.npz` file that keeps arrays. If it cannot be read or written,
            the next call takes longer, but nothing else changes.
        name: The name of the array in the file.
        key: Text that identifies what the array is computed from.
        compute: Returns the array.
    """
    fields: dict[str, Any] = {}
    try:
        if path.exists():
            with arrays(path, "") as file:
                fields = {field: file[field] for field in file.files}
    except (DamagedFileError, OSError):
        print(f"{path} is damaged, and is written again.", flush=True)
    if name not in fields or fields.get(f"{name}_key") != key:
        fields[name], fields[f"{name}_key"] = compute(), key
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_arrays(path, **fields)
    return fields[name]


@contextlib.contextmanager
def parsing(path: pathlib.Path, cure: str) -> Iterator[None]:
    """Turns any failure to read a file's content into DamagedFileError.

    Raises:
        UsageError: If the block raises it; names the file.
        DamagedFileError: If the block fails otherwise.
    """
    try:
        yield
    except DamagedFileError:
        raise
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    except Exception as error:
        raise DamagedFileError(
            f"{path} is damaged: it cannot be read "
            f"({type(error).__name__}). {cure}"
        ) from error


def _load(directory: pathlib.Path) -> dict[str, list[str | None]]:
    path = directory / FILE
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return {}
    cure = (
        "Restore it from a copy. If the files beside it are as they should "
        "be, you can also remove it; they are then not checked."
    )
    with parsing(path, cure):
        return unsealed(text)["files"]


def _save(directory: pathlib.Path, files: dict) -> None:
    atomic.write_text(directory / FILE, sealed({"files": files}) + "\n")


def sealed(content: Mapping[str, Any]) -> str:
    """Returns JSON that holds its own checksum, for `unsealed`."""
    seal = {"sha256": _sha256_of_json(content)}
    return json.dumps({**content, **seal}, indent=1)


def unsealed(text: str | bytes) -> dict[str, Any]:
    """Returns the content of `sealed`.

    Raises:
        ValueError: If the text is not complete.
    """
    content = json.loads(text)
    if not isinstance(content, dict) or (
        content.pop("sha256", None) != _sha256_of_json(content)
    ):
        raise ValueError("the JSON has the wrong checksum")
    return content


def sha256_of_file(path: str | os.PathLike) -> str:
    """Returns the SHA-256 of a file, listed or not."""
    with open(path, "rb") as file:
        return _sha256(file)


def _sha256_of_json(content: Any) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(file: io.BufferedReader) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()
