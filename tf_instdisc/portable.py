"""Encoder files that Keras 3.5 and later versions can read.

Keras writes every argument of every layer to a file's configuration, including
those that an older Keras does not know and therefore rejects. An argument at
its default has no effect, so it can be left out.
"""

import os
import pathlib
import types
from typing import Any

import keras

from tf_instdisc import atomic
from tf_instdisc.errors import UsageError

# Arguments added to Keras from 3.6 to 3.15, with their defaults.
_NEWER: dict[str, tuple[Any, ...]] = {
    "antialias": (False,),
    "bounding_box_format": (None,),
    "factor": (None,),
    "flash_attention": (None,),
    "gptq_unpacked_column_size": (None,),
    "input_axes": (None,),
    "lora_alpha": (None,),
    "output_axes": (None,),
    "quantization_config": (None,),
    "ragged": (None, False),
    "renorm": (False,),
    "sliding_window": (None,),
    # Not new, but rejected by every backend except TensorFlow. It does not
    # affect the output of a trained encoder.
    "synchronized": (False, True),
    "use_gate": (False,),
}
_RENORM_DETAILS = ("renorm_clipping", "renorm_momentum")


def save_encoder(encoder: keras.Model, path: str | os.PathLike) -> None:
    """Saves an encoder as a `.keras` file that Keras 3.5 and later load.

    The file is written atomically. For an encoder returned by `build_encoder`
    or `load_encoder`, `encoder.save` writes the same file. For any other
    model, `save` writes a configuration that only the installed version of
    Keras and later ones are certain to read.

    ```python
    encoder = tf_instdisc.load_encoder("runs/photos")
    tf_instdisc.save_encoder(encoder, "encoder.keras")
    ```

    Args:
        encoder: A functional or Sequential model of Keras' own layers.
        path: A path that ends in `.keras`.

    Raises:
        UsageError: If `path` has another suffix.
    """
    path = pathlib.Path(path)
    if path.suffix != ".keras":
        raise UsageError(
            f"`path` must end in .keras. Received: path={str(path)!r}"
        )
    with atomic.replacing(path) as partial:
        write(encoder, partial)


def write(encoder: keras.Model, path: pathlib.Path) -> None:
    """Writes the file of `save_encoder`; the model stays as it is."""
    was_portable = "get_config" in vars(encoder)
    try:
        make_portable(encoder).save(path)
    finally:
        if not was_portable:
            del encoder.get_config


def make_portable(encoder: keras.Model) -> keras.Model:
    """Makes a model, in place, describe itself in terms of Keras 3.5."""

    def get_config(self: keras.Model) -> dict[str, Any]:
        return _portable(type(self).get_config(self))

    # Set on the object, because the file must name Keras' own class.
    encoder.get_config = types.MethodType(get_config, encoder)
    return encoder


def _portable(config: Any) -> Any:
    if isinstance(config, dict):
        is_plain = config.get("renorm", False) is False
        return {
            key: _portable(value)
            for key, value in config.items()
            if not _is_default(key, value)
            and not (is_plain and key in _RENORM_DETAILS)
        }
    if isinstance(config, list | tuple):
        return type(config)(map(_portable, config))
    return config


def _is_default(key: str, value: object) -> bool:
    return any(value is default for default in _NEWER.get(key, ()))
