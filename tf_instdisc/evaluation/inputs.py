"""Opens the inputs of a protocol: a finished run and labeled images."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tf_instdisc.checksums import sha256_of_file
from tf_instdisc.config import DataConfig, RunConfig
from tf_instdisc.data import pipeline
from tf_instdisc.data.sources import ImageSource, known_labels
from tf_instdisc.errors import DamagedFileError, UsageError
from tf_instdisc.evaluation import results
from tf_instdisc.evaluation.features import EMBEDDING, Activations, Layer
from tf_instdisc.evaluation.untrained import encoder_like
from tf_instdisc.runs.bank import Bank
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.runs.embedding import BATCH_SIZE, Embedded
from tf_instdisc.runs.load import load_encoder
from tf_instdisc.runs.policy import without_float16
from tf_instdisc.runs.sources import (
    image_caches,
    open_test,
    open_train,
    with_overrides,
)
from tf_instdisc.text import listed

_COMPARED = 256  # Number of files.
_OF_BANK = (
    "images",
    "dataset",
    "split",
    "data_dir",
    "image_key",
    "label_key",
    "crop_fraction",
)
# What a run has cached about its images is valid for these settings only.
_OF_TRAIN = "images", "dataset", "data_dir", "label_key"
_REMEMBERED = {"train": _OF_TRAIN, "test": (*_OF_TRAIN, "test_images")}


@dataclasses.dataclass(frozen=True)
class EvaluationInputs:
    """A finished run with labeled images to learn from and to test on.

    Everything is opened when it is first used, and only once.

    Attributes:
        run: The run.
        overrides: As in `evaluate`.
    """

    run: RunDirectory
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    _untrained: dict[int, Activations] = dataclasses.field(
        default_factory=dict, init=False
    )

    @functools.cached_property
    def config(self) -> RunConfig:
        """The run's settings, with the images of the evaluation.

        Raises:
            UsageError: If no images are named, or an override cannot be
                combined with them.
        """
        config = self.run.read_config()
        own = config.data
        if not (own.images or own.dataset or self.overrides):
            raise UsageError(
                "An evaluation needs images. Received: a run that names "
                "neither a folder nor a dataset. Name one of the same "
                "images: instdisc-evaluate --images and --test_images, or "
                "--dataset."
            )
        data = with_overrides(own, self.overrides)
        return dataclasses.replace(config, data=data)

    @functools.cached_property
    def sources(self) -> tuple[ImageSource, ImageSource]:
        """Labeled training images, and test images of the same classes.

        Raises:
            RunDirectoryError: If the run has not finished.
            FileNotFoundError: If a folder is missing.
            UsageError: As `open_labeled` does.
        """
        if not self.run.bank.exists():
            self.run.load_bank()  # Raises an error that says what is missing.
        own, data = self.run.read_config().data, self.config.data
        memory = {
            part: file
            for part, file in image_caches(self.run, data).items()
            if _agree(own, data, _REMEMBERED[part])
        }
        return open_labeled(data, memory)

    @property
    def source(self) -> ImageSource:
        """Labeled training images."""
        return self.sources[0]

    @property
    def test_source(self) -> ImageSource:
        """Labeled test images."""
        return self.sources[1]

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """The int64 labels of the labeled training images."""
        return known_labels(self.source)

    @functools.cached_property
    def encoder(self) -> keras.Model:
        """The trained encoder."""
        return load_encoder(self.run.path)

    @functools.cached_property
    def trainable_encoder(self) -> keras.Model:
        """The trained encoder, to be trained further with labels."""
        return without_float16(self.encoder)

    @functools.cached_property
    def bank(self) -> Bank:
        """The run's memory bank."""
        return self.run.load_bank()

    @property
    def directory(self) -> pathlib.Path:
        """Where large activations are kept during an evaluation."""
        return self.run.features / "layers"

    @functools.cached_property
    def activations(self) -> Activations:
        """Activations of the trained encoder."""
        return Activations(
            lambda: self.encoder,
            self.sources,
            self.directory / "trained",
            self.config.data.crop_fraction,
            self._rows,
        )

    def untrained(self, seed: int) -> Activations:
        """Returns activations of an encoder with new weights."""
        if seed not in self._untrained:
            self._untrained[seed] = Activations(
                lambda: encoder_like(self.encoder, self.source, seed),
                self.sources,
                self.directory / f"untrained-{seed}",
                self.config.data.crop_fraction,
            )
        return self._untrained[seed]

    @functools.cached_property
    def end(self) -> str:
        """The suffix of measurement names if the data is not the run's own.

        The run's own images may have been moved to another folder.
        """
        own, data = self.run.read_config().data, self.config.data
        is_same = data.images == own.images
        was_moved = (
            not is_same
            and self._is_of_folder
            and any(self.run.load_instances().digests.values())
        )
        is_own = (
            _agree(own, data, ("dataset", "split"))
            and self.source.class_names == self.bank.class_names
            and (is_same or was_moved)
        )
        return results.suffix(own, data, is_own, self.test_source.name)

    @property
    def image_size(self) -> int:
        """Side of the encoder's input, in pixels."""
        return int(self.encoder.input_shape[1])

    def images(self, source: ImageSource) -> tf.data.Dataset:
        """Returns batches `(images, instance_ids, labels)` of all images."""
        return pipeline.evaluation_dataset(
            source,
            self.image_size,
            BATCH_SIZE,
            self.config.data.crop_fraction,
        )

    def _rows(self) -> dict[Layer, Embedded]:
        """Returns the rows of the run's bank, if they are of these images."""
        own, data = self.run.read_config().data, self.config.data
        bank = self.bank
        if (
            bank.encoded_by is None
            or not _agree(own, data, _OF_BANK)
            or len(bank.rows) != self.source.num_readable
            or bank.class_names != self.source.class_names
            or (data.images is not None and not self._is_of_folder)
        ):
            return {}
        columns = bank.rows, bank.instance_ids, bank.labels
        if (is_labeled := bank.labels >= 0).all():
            return {EMBEDDING: Embedded(*columns)}
        return {EMBEDDING: Embedded(*(c[is_labeled] for c in columns))}

    @functools.cached_property
    def _is_of_folder(self) -> bool:
        """Whether the bank's files have neither moved nor changed since.

        Names and labels of all files are compared, but the contents of a
        sample: replaced single files are only found by `instdisc update`.
        """
        source, bank = self.source, self.bank
        labels = source.labels().tolist()
        present = {source.instance_name(i): one for i, one in enumerate(labels)}
        rows = zip(bank.names.tolist(), bank.labels.tolist(), strict=True)
        if any(present.get(name) != label for name, label in rows):
            return False
        try:
            digests = self.run.load_instances().digests
        except DamagedFileError:
            return False
        known = sorted(name for name, digest in digests.items() if digest)
        folder = pathlib.Path(source.folder or "")
        return all(
            digests[name] == sha256_of_file(folder / name)
            for name in known[:: len(known) // _COMPARED + 1]
            if name in present
        )


def open_labeled(
    data: DataConfig, memory: Mapping[str, pathlib.Path] | None = None
) -> tuple[ImageSource, ImageSource]:
    """Opens training and test images with labels of the same classes.

    Args:
        data: The settings of the images.
        memory: As returned by `image_caches`. If omitted, all files are checked
            and all labels are read.

    Raises:
        FileNotFoundError: If a folder is missing.
        UsageError: If there are no test images, if labels are missing, if
            the classes of the training and test images differ, or if there
            is only one class.
    """
    memory = memory or {}
    test_source = open_test(data, memory.get("test"))
    if test_source is None:
        place = f"images={data.images}"
        if data.dataset:
            place = f"dataset={data.dataset}"
        raise UsageError(
            f"An evaluation needs test images. Received: a run over --{place} "
            "without them. Give --test_images=FOLDER with the same class "
            "subfolders, or the --test_split of a dataset."
        )
    source = open_train(data, memory=memory.get("train"))
    for what, part in (("training", source), ("test", test_source)):
        if part.class_names is None or not len(known_labels(part)):
            raise UsageError(
                f"An evaluation needs labels, and the {what} images have "
                f"none. Received: {part.name}. Labels are the subfolders of "
                "a folder, or the --label_key of a TFDS dataset; "
                "--images and --test_images, or --dataset, name another one."
            )
    if source.class_names != test_source.class_names:
        raise UsageError(
            "Training and test images must have the same classes. Received: "
            f"{_named(source)} to learn from, {_named(test_source)} to test"
        )
    found = len(np.unique(known_labels(source)))
    if found < 2:
        raise UsageError(
            "An evaluation needs images of at least two classes. Received: "
            f"{source.name}, whose images are of {found}"
        )
    return source, test_source


def _named(source: ImageSource) -> str:
    names = source.class_names or ()
    return f"{source.name} with {len(names)} ({listed(names, 5)})"


def _agree(own: DataConfig, data: DataConfig, names: Iterable[str]) -> bool:
    return all(getattr(data, name) == getattr(own, name) for name in names)
