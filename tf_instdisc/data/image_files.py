"""Image files by path or URL, read in parallel and in their order."""

import collections
import concurrent.futures
import errno
import http.client
import logging
import os
import re
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator

from tf_instdisc.errors import StorageError
from tf_instdisc.text import UNTRUSTED_LIMIT, shown

_READERS = 16
_AHEAD = 64  # Files that wait in memory.
_LARGEST = 2**28  # Bytes; a server may send data forever.
_DEADLINE = 60  # seconds, for each response of a server

# Pauses of up to 1, 3, 9 and 27 seconds.
_RETRIES = 4
_PAUSE = 1.0
_FACTOR = 3

_URL_CHARACTERS = "%/:?#[]@!$&'()*+,;=~"

# HTTP statuses that concern a single file: forbidden, not found, gone.
_FINAL_STATUSES = (403, 404, 410)


def read_files(
    folder: str, names: Iterable[str]
) -> Iterator[tuple[bytes, str]]:
    """Reads files, and gives a reason for each that cannot be read.

    A failure that may pass, such as a lost connection or the status 503, is
    tried again a few times.

    Args:
        folder: The folder or URL to which relative names belong.
        names: Paths or URLs: http, https, or what fsspec opens.

    Yields:
        The content and an empty string, or no content and the reason: the
        file is missing, may not be read or is too large, the name is not
        that of a file, or its host is unknown.

    Raises:
        ImportError: If fsspec needs a package that is not installed.
        StorageError: If a file cannot be read for any other reason.
    """
    from apache_beam.utils import retry

    content_of = retry.with_exponential_backoff(
        _RETRIES,
        _PAUSE,
        logging.getLogger(__name__).info,
        retry_filter=_is_transient,
        factor=_FACTOR,
    )(_content)

    def read(name: str) -> tuple[bytes, str]:
        try:
            content = content_of(
                name if "://" in name else os.path.join(folder, name)
            )
        except (ImportError, MemoryError):
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            require_lasting(
                error,
                name,
                f"({shown(reason, UNTRUSTED_LIMIT)}), tried {_RETRIES + 1} "
                "times. Check the network and the credentials, then run the "
                "same command again; files that are complete are kept.",
            )
            return b"", reason
        if len(content) > _LARGEST:
            return b"", f"larger than {_LARGEST} bytes"
        return content, ""

    waiting: collections.deque = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(_READERS)
    try:
        for name in names:
            waiting.append(pool.submit(read, name))
            if len(waiting) == _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _content(path: str) -> bytes:
    if path.startswith(("http://", "https://")):
        url = _ascii_url(path)
        with urllib.request.urlopen(url, timeout=_DEADLINE) as response:
            content = response.read(_LARGEST + 1)
            # `read` with a size does not report a connection that breaks off.
            if response.length and len(content) <= _LARGEST:
                raise http.client.IncompleteRead(content, response.length)
            return content
    if "://" in path:
        import fsspec

        with fsspec.open(path, "rb") as file:
            return file.read(_LARGEST + 1)
    with open(path, "rb") as file:
        return file.read(_LARGEST + 1)


def _ascii_url(url: str) -> str:
    """Returns a URL as browsers send it; what is quoted already stays so."""
    scheme, host, path = re.split(r"(?<=://)([^/?#]*)", url, maxsplit=1)
    if not host.isascii():
        host = host.encode("idna").decode()
    return scheme + host + urllib.parse.quote(path, safe=_URL_CHARACTERS)


def require_lasting(error: Exception, path: str, rest: str) -> None:
    """Raises StorageError if an image temporarily could not be read.

    The end of its message, `rest`, is the reason in parentheses, and what to
    do.
    """
    if _is_transient(error):
        raise StorageError(
            "Images must be readable. Received: "
            f"{shown(path, UNTRUSTED_LIMIT)} {rest}"
        ) from error


def _is_transient(error: Exception) -> bool:
    """Returns whether an error may be temporary, such as a network failure."""
    if isinstance(error, ImportError | MemoryError):
        return False
    status = _status_of(error) or _status_of(error.__cause__)
    if status is not None:
        return status not in _FINAL_STATUSES
    if isinstance(error, urllib.error.URLError):
        if isinstance(error.reason, str):  # Such as "no host given".
            return False
        if isinstance(error.reason, socket.gaierror):
            return error.reason.errno != socket.EAI_NONAME
    if isinstance(error, OSError):
        return not isinstance(
            error,
            FileNotFoundError
            | IsADirectoryError
            | NotADirectoryError
            | PermissionError,
        ) and error.errno not in (errno.ENAMETOOLONG, errno.ELOOP)
    return not isinstance(error, ValueError | http.client.InvalidURL)


def _status_of(error: BaseException | None) -> int | None:
    """Returns the HTTP status of an error, if its library provides it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        metadata = response.get("ResponseMetadata", {})
        return metadata.get("HTTPStatusCode")
    # urllib and gcsfs, aiohttp, azure
    for name in ("code", "status", "status_code"):
        value = getattr(error, name, None)
        if isinstance(value, int):
            return value
    return None
