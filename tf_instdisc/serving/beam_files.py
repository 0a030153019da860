"""Files at paths or URLs that Beam opens, each written completely or not."""

import contextlib
import uuid
from collections.abc import Iterator
from typing import IO

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from tf_instdisc.errors import UsageError

PARTIAL = "_partial-"
"""How the names of files begin that are being written."""


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
