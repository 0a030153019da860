"""Loads a trained encoder from wherever it lies."""

import os

import keras

from tf_instdisc import run_directory
from tf_instdisc.encoders.portable import make_portable
from tf_instdisc.errors import MissingFileError


def load_encoder(path: str | os.PathLike) -> keras.Model:
    """Loads an encoder from a run directory or a `.keras` file.

    `keras.saving.load_model` loads the same file where this package is not
    installed.

    Args:
        path: A run directory, or its `encoder.keras`.

    Returns:
        The encoder: images `[batch, size, size, 3]`, RGB in 0..255, to
        float32 embeddings `[batch, embedding_dim]` of unit length.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        RunDirectoryError: If the directory holds no finished run.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise MissingFileError(
            "`path` must be a run directory or a .keras file. "
            f"Received: path={path!r}, which does not exist"
        )
    if os.path.isdir(path):
        run = run_directory.load(path)
        if not run.encoder.exists():
            raise run_directory.RunDirectoryError(
                f"{path} holds no encoder.keras. Has its run finished?"
            )
        path = os.fspath(run.encoder)
    return make_portable(keras.saving.load_model(path, compile=False))
