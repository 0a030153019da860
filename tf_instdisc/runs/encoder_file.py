"""The file of an encoder: written atomically, and checked when it is read.

Keras is only imported when an encoder is read or written.
"""

import pathlib
import zipfile
from typing import TYPE_CHECKING

from tf_instdisc import checksums

if TYPE_CHECKING:
    import keras


def write(path: pathlib.Path, encoder: "keras.Model") -> None:
    """Writes an encoder atomically."""
    from tf_instdisc import portable

    with checksums.replacing(path) as partial:
        portable.write(encoder, partial)


def read(path: pathlib.Path, cure: str) -> "keras.Model":
    """Reads an encoder.

    Raises:
        DamagedFileError: If the file is damaged.
    """
    import keras

    checksums.digest(path, cure)
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception:
        # A run of an earlier version has no digest of the file.
        with checksums.parsing(path, cure):
            _require_whole_archive(path)
        raise


def _require_whole_archive(path: pathlib.Path) -> None:
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(damaged)
