"""Files at paths or URLs that Beam opens, each written completely or not."""

import contextlib
import json
import uuid
from collections.abc import Iterator
from typing import IO, Any

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from tf_instdisc.errors import StorageError, UsageError

PARTIAL = "_partial-"
"""The prefix of files that are being written."""

# Where the errors of file systems, or of the libraries below them, come from.
_STORES = ("apache_beam.io.", "azure.", "botocore.", "google.")


@contextlib.contextmanager
def reporting() -> Iterator[None]:
    """Reports errors of Beam's file systems, which have no `errno`.

    Raises:
        StorageError: If the block raises one.
    """
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(_STORES):
            raise
        raise StorageError(
            f"`output` cannot be read or written: {error}. Check the network "
            "and the permissions, then run the same command again; files that "
            "are complete are kept."
        ) from error


def require_known(path: str) -> None:
    """Raises UsageError unless Beam can open a path or URL as it is."""
    if set(path) & set("*?["):
        raise UsageError(
            "`output` must not contain *, ? or [, which make it a pattern for "
            f"Beam. Received: output={path!r}. Choose another name."
        )
    try:
        FileSystems.get_filesystem(path)
    except ValueError as error:
        raise UsageError(
            "`output` must be a path or a URL that Beam opens: gs:// with "
            "apache-beam[gcp], or s3:// with apache-beam[aws]. Received: "
            f"output={path!r}"
        ) from error


def matching(pattern: str) -> list[str]:
    """Returns the paths that a pattern matches."""
    (match,) = FileSystems.match([pattern])
    return [found.path for found in match.metadata_list]


def open_read(path: str) -> IO[bytes]:
    """Opens a file as it is, whatever its suffix says."""
    return FileSystems.open(
        path, compression_type=CompressionTypes.UNCOMPRESSED
    )


def read_json(path: str) -> dict[str, Any]:
    """Reads a JSON file."""
    with open_read(path) as file:
        return json.loads(file.read())


def write_text(path: str, text: str) -> None:
    """Writes a file in UTF-8, as `replacing` does."""
    with replacing(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def replacing(path: str) -> Iterator[IO[bytes]]:
    """Writes a file under another name, and moves it into place."""
    folder, name = FileSystems.split(path)
    partial = FileSystems.join(folder, f"{PARTIAL}{uuid.uuid4().hex}-{name}")
    try:
        with FileSystems.create(
            partial, compression_type=CompressionTypes.UNCOMPRESSED
        ) as file:
            yield file
        FileSystems.rename([partial], [path])
    except BaseException:
        with contextlib.suppress(BeamIOError):
            FileSystems.delete([partial])
        raise
