"""Encodes the images of a run, or files, with the encoder of the run."""

import dataclasses
from collections.abc import Sequence

import keras
import numpy as np

from tf_instdisc.config import RunConfig
from tf_instdisc.data.folder import labels_of, report_unreadable
from tf_instdisc.data.folder_listing import image_paths
from tf_instdisc.paths import local_path
from tf_instdisc.runs import sources
from tf_instdisc.runs.bank import Bank
from tf_instdisc.runs.embedding import inference, on_devices
from tf_instdisc.runs.images import RunImages


def encode(
    images: RunImages, encoder: keras.Model
) -> tuple[np.ndarray, np.ndarray]:
    """Encodes the images of a bank.

    Returns:
        Rows, float32 `[size, embedding_dim]`, and bool `[size]`, whether an
        image was found; the rows of the others are zero.
    """
    size = len(images.bank.names)
    rows = np.zeros([size, encoder.output_shape[-1]], np.float32)
    found = np.zeros([size], bool)
    call = inference(on_devices(encoder))
    for positions, batch in images.batches(
        np.arange(size), images.image_size, images.crop_fraction
    ):
        rows[positions] = call(batch)
        found[positions] = True
    return rows, found


def files_as_images(
    folder: str,
    names: Sequence[str],
    config: RunConfig,
    class_names: tuple[str, ...] = (),
) -> RunImages:
    """Returns files as images without rows, numbered by their place.

    Args:
        folder: The folder or its URL.
        names: Paths relative to the folder.
        config: Settings of a run, which say how images are read.
        class_names: Names of the classes, which are subfolders.
    """
    size = len(names)
    bank = Bank(
        np.zeros([size, 0], np.float32),
        np.arange(size),
        np.array(names, str),
        labels_of(names, class_names),
        class_names,
    )
    data = sources.with_overrides(config.data, {"images": folder})
    return RunImages(bank, dataclasses.replace(config, data=data))


def encode_files(
    folder: str,
    names: Sequence[str],
    config: RunConfig,
    encoder: keras.Model,
    class_names: tuple[str, ...] = (),
) -> RunImages:
    """Encodes files as a run encodes its images.

    Args:
        folder: As in `files_as_images`.
        names: As in `files_as_images`.
        config: The settings of the run.
        encoder: The encoder of the run.
        class_names: As in `files_as_images`.

    Returns:
        The images that can be read, numbered by their place in `names`.
    """
    images = files_as_images(folder, names, config, class_names)
    rows, found = encode(images, encoder)
    bank = dataclasses.replace(images.bank, rows=rows).take(found)
    return dataclasses.replace(images, bank=bank)


def encode_folder(
    folder: str,
    config: RunConfig,
    encoder: keras.Model,
    class_names: tuple[str, ...] = (),
) -> RunImages:
    """Encodes all images of a folder, and reports those that cannot be read.

    Args:
        folder: The folder or its URL, which is the title of the images.
        config: As in `encode_files`.
        encoder: As in `encode_files`.
        class_names: As in `files_as_images`.

    Raises:
        FileNotFoundError: If the folder is missing or contains no image.
        UnreadableImageError: If no image can be read.
    """
    copy = local_path(folder, "folder")
    names = image_paths(copy)
    images = encode_files(copy, names, config, encoder, class_names)
    bad = set(names).difference(images.bank.names.tolist())
    if bad:
        report_unreadable(sorted(bad), len(names), copy, "skip")
    return dataclasses.replace(images, title=folder)
