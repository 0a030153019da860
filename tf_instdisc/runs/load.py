"""Loads a trained encoder from a run directory or a file."""

import os
import pathlib

import keras

from tf_instdisc.errors import MissingFileError
from tf_instdisc.keras_internals import is_functional
from tf_instdisc.portable import make_portable
from tf_instdisc.runs import directory, opening, shipped
from tf_instdisc.text import did_you_mean


def load_encoder(path: str | os.PathLike, best: bool = False) -> keras.Model:
    """Loads an encoder by name, or from a run directory or a `.keras` file.

    `keras.saving.load_model` loads the same file where this package is not
    installed.

    ```python
    encoder = tf_instdisc.load_encoder("runs/photos")
    size = encoder.input_shape[1]
    embedding = encoder(np.zeros((1, size, size, 3), np.uint8))
    ```

    Args:
        path: A run directory or its `encoder.keras`, also at a URL, or the
            name of a run that comes with the package.
        best: Whether to load the encoder of the best epoch by kNN instead of
            the last one, from the directory of a run with `--keep_best`.

    Returns:
        The encoder: images `[batch, size, size, 3]`, RGB in 0..255, to
        float32 embeddings `[batch, embedding_dim]` of unit length. That of a
        run takes images of the run's size.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        RunDirectoryError: If the directory holds no finished run.
        StorageError: If a URL cannot be read.
    """
    given, path = os.fspath(path), shipped.located(path)
    if not os.path.exists(path):
        raise MissingFileError(
            "`path` must be a run directory or a .keras file. "
            f"Received: path={given!r}, which does not exist."
            + did_you_mean(given, shipped.names())
        )
    if os.path.isdir(path):
        run = opening.load(path)
        encoder = run.load_encoder_file(_file_of(run, best))
        return make_portable(_of_one_size(encoder, run))
    return make_portable(keras.saving.load_model(path, compile=False))


def _of_one_size(
    encoder: keras.Model, run: directory.RunDirectory
) -> keras.Model:
    """Returns an encoder for images of the run's size, if it takes any."""
    has_layers = isinstance(encoder, keras.Sequential) or is_functional(encoder)
    if not has_layers or None not in encoder.input_shape[1:3]:
        return encoder
    size = run.read_config().data.image_size
    image = keras.Input((size, size, 3), dtype=encoder.inputs[0].dtype)
    copy = keras.models.clone_model(encoder, input_tensors=image)
    copy.set_weights(encoder.get_weights())
    return copy


def _file_of(run: directory.RunDirectory, best: bool) -> pathlib.Path:
    if best:
        if run.load_best() is None:
            raise directory.RunDirectoryError(
                f"{run.path} holds no complete encoder_best.keras. Train the "
                "run with --keep_best."
            )
        return run.best_encoder
    if not run.encoder.exists():
        raise directory.RunDirectoryError(
            f"{run.path} holds no encoder.keras. Has its run finished?"
        )
    return run.encoder
