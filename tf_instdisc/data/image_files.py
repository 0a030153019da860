"""Image files by path or URL, read in parallel and in their order."""

import collections
import concurrent.futures
import http.client
import os
import urllib.request
from collections.abc import Iterable, Iterator

_READERS = 16
_AHEAD = 64  # Files that wait in memory.
_LARGEST = 2**28  # Bytes; a server may send without end.
_DEADLINE = 60  # seconds, for each answer of a server


def read_files(
    folder: str, names: Iterable[str]
) -> Iterator[tuple[bytes, str]]:
    """Reads files, and gives a reason for each that cannot be read.

    Args:
        folder: The folder or URL to which relative names belong.
        names: Paths or URLs: http, https, or what fsspec opens.

    Yields:
        The content and an empty string, or no content and the reason.

    Raises:
        ImportError: If fsspec needs a package that is not installed.
    """
    waiting: collections.deque = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        for name in names:
            waiting.append(pool.submit(_read, folder, name))
            if len(waiting) == _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _read(folder: str, name: str) -> tuple[bytes, str]:
    try:
        content = _content(
            name if "://" in name else os.path.join(folder, name)
        )
    except (OSError, ValueError, http.client.HTTPException) as error:
        return b"", f"{type(error).__name__}: {error}"
    if len(content) > _LARGEST:
        return b"", f"larger than {_LARGEST} bytes"
    return content, ""


def _content(path: str) -> bytes:
    if path.startswith(("http://", "https://")):
        with urllib.request.urlopen(path, timeout=_DEADLINE) as answer:
            return answer.read(_LARGEST + 1)
    if "://" in path:
        import fsspec

        with fsspec.open(path, "rb") as file:
            return file.read(_LARGEST + 1)
    with open(path, "rb") as file:
        return file.read(_LARGEST + 1)
