"""The file of an encoder: written whole, checked when it is read.

Keras is imported only where an encoder is read or written.
"""

import pathlib
import zipfile
from typing import TYPE_CHECKING

from tf_instdisc import checksums

if TYPE_CHECKING:
    import keras


def write(path: pathlib.Path, encoder: "keras.Model") -> None:
    """Writes an encoder, whole or not at all."""
    from tf_instdisc.method.encoders.portable import make_portable

    with checksums.replacing(path) as partial:
        make_portable(encoder).save(partial)


def read(path: pathlib.Path, cure: str) -> "keras.Model":
    """Reads an encoder.

    Args:
        path: The file.
        cure: What the message of an error ends with.

    Raises:
        DamagedFileError: If the file is damaged.
    """
    import keras

    checksums.digest(path, cure)
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception:
        # A run of an earlier version has no digest of it.
        with checksums.parsing(path, cure):
            _require_whole_archive(path)
        raise


def _require_whole_archive(path: pathlib.Path) -> None:
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(damaged)
