"""Opens the inputs of a protocol: a finished run and labeled images."""

import collections
import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from tf_instdisc.config import DataConfig, RunConfig
from tf_instdisc.data import pipeline
from tf_instdisc.data.sources import ImageSource
from tf_instdisc.errors import StorageError, UsageError
from tf_instdisc.evaluation.features import (
    Features,
    data_digest,
    extract,
    feature_directory,
    labels_of,
)
from tf_instdisc.runs.bank import Bank
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.runs.embedding import BATCH_SIZE, inference, on_devices
from tf_instdisc.runs.load import load_encoder
from tf_instdisc.runs.sources import (
    image_caches,
    open_test,
    open_train,
    with_overrides,
)
from tf_instdisc.text import listed

if TYPE_CHECKING:
    from tf_instdisc.evaluation.linear_protocol import LinearOptions
    from tf_instdisc.evaluation.svm_protocol import SVMOptions

# What a run remembers of its images belongs to these settings of them.
_REMEMBERED = ("images", "dataset", "data_dir", "label_key")


@dataclasses.dataclass(frozen=True)
class EvaluationInputs:
    """A finished run with images to train on and images to test on.

    Attributes:
        run: The run.
        config: Its settings, with the images of the evaluation.
        source: Labeled training images.
        test_source: Labeled test images of the same classes.
        layers: By `num_features`, the layers whose activations the protocols
            of this evaluation need.
    """

    run: RunDirectory
    config: RunConfig
    source: ImageSource
    test_source: ImageSource
    layers: dict[int, set[str]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(set)
    )

    @functools.cached_property
    def encoder(self) -> keras.Model:
        """The trained encoder."""
        return load_encoder(self.run.path)

    @functools.cached_property
    def encode(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """The trained encoder for `embed`, on all GPUs and compiled once."""
        return inference(on_devices(self.encoder))

    @functools.cached_property
    def bank(self) -> Bank:
        """The run's memory bank."""
        return self.run.load_bank()

    @property
    def image_size(self) -> int:
        """Side of the encoder's input, in pixels."""
        return int(self.encoder.input_shape[1])

    @functools.cached_property
    def digests(self) -> tuple[str, str]:
        """The `data_digest` of the training and of the test images."""
        return data_digest(self.source), data_digest(self.test_source)

    def images(self, source: ImageSource) -> tf.data.Dataset:
        """Returns batches `(images, instance_ids, labels)` of all images."""
        return pipeline.evaluation_dataset(
            source, self.image_size, BATCH_SIZE, self.config.data.crop_fraction
        )

    @contextlib.contextmanager
    def features(
        self,
        encoder: keras.Model,
        layers: Sequence[str],
        options: "LinearOptions | SVMOptions",
    ) -> Iterator[tuple[Features, Features]]:
        """Yields what `extract` gives for the training and test images.

        If the activations of the run's encoder are kept, the other layers of
        this evaluation are computed with them, so that each image is decoded
        and encoded once.
        """

        keep = options.keep_features
        # Computing the digests reads all images.
        digests = self.digests if keep else ("train", "test")

        def extracted(names: Sequence[str]) -> tuple[Features, Features]:
            train, test = (
                extract(
                    encoder,
                    source,
                    names,
                    place,
                    options.num_features,
                    self.config.data.crop_fraction,
                    digest,
                )
                for source, digest in zip(
                    (self.source, self.test_source), digests, strict=True
                )
            )
            return train, test

        role = "trained" if encoder is self.encoder else "untrained"
        others: set[str] = set()
        if encoder is self.encoder and keep:
            others = self.layers[options.num_features] - {*layers}
        with feature_directory(self.run.features / role, keep) as place:
            try:
                found = extracted([*layers, *sorted(others)])
            except StorageError:
                if not others:
                    raise
                found = extracted(layers)  # There is room for these alone.
            yield found

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """The int64 labels of the labeled training images."""
        return labels_of(self.source)


@dataclasses.dataclass(frozen=True)
class UnopenedRun:
    """A finished run, before its images are opened.

    Attributes:
        run: The run.
        overrides: As in `open_inputs`.
    """

    run: RunDirectory
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def labeled(self) -> EvaluationInputs:
        """The run with its labeled images, which are opened only once."""
        return open_inputs(self.run, self.overrides)


def open_inputs(
    run: RunDirectory, overrides: Mapping[str, Any] | None = None
) -> EvaluationInputs:
    """Opens a run with the images that it was trained on, or with others.

    Args:
        run: A finished run.
        overrides: Fields of `DataConfig` that replace the run's, for data
            that has moved or for other data: `images`, `test_images` and
            `bad_images`; or `dataset`, `split`, `test_split`, `data_dir`,
            `image_key`, `label_key` and `cache`.

    Raises:
        RunDirectoryError: If the run has not finished.
        FileNotFoundError: If a folder is missing.
        ValueError: If there are no test images, if labels are missing, if
            the classes of the training and test images differ, or if there
            is only one class.
    """
    if not run.bank.exists():
        run.load_bank()  # Raises an error that says what is missing.
    config = run.read_config()
    own = config.data
    if not (own.images or own.dataset or overrides):
        raise UsageError(
            "An evaluation needs images. Received: a run that names neither a "
            "folder nor a data set. Name one of the same images: "
            "instdisc-evaluate --images and --test_images, or --dataset."
        )
    data = with_overrides(own, overrides or {})
    config = dataclasses.replace(config, data=data)
    memory = image_caches(run, data)
    if any(getattr(data, name) != getattr(own, name) for name in _REMEMBERED):
        memory = {}
    elif data.test_images != own.test_images:
        del memory["test"]
    return EvaluationInputs(run, config, *open_labeled(data, memory))


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
        ValueError: As `open_inputs` does.
    """
    if data.images and not data.test_images:
        raise UsageError(
            "An evaluation needs test images. Received: a run over "
            f"--images={data.images} without them. Give "
            "--test_images=FOLDER with the same class subfolders."
        )
    memory = memory or {}
    test_source = open_test(data, memory.get("test"))
    if test_source is None:
        raise UsageError(
            "An evaluation needs test images. Received: a run over "
            f"--dataset={data.dataset} without a --test_split. Give "
            "--test_split."
        )
    source = open_train(data, memory=memory.get("train"))
    for what, part in (("training", source), ("test", test_source)):
        if part.class_names is None or not len(labels_of(part)):
            raise UsageError(
                f"An evaluation needs labels, and the {what} images have "
                f"none. Received: {part.name}. Labels are the subfolders of "
                "a folder, or the --label_key of a TFDS data set; "
                "--images and --test_images, or --dataset, name another one."
            )
    if source.class_names != test_source.class_names:
        raise UsageError(
            "Training and test images must have the same classes. Received: "
            f"{_named(source)} to learn from, {_named(test_source)} to test"
        )
    found = len(np.unique(labels_of(source)))
    if found < 2:
        raise UsageError(
            "An evaluation needs images of at least two classes. Received: "
            f"{source.name}, whose images are of {found}"
        )
    return source, test_source


def _named(source: ImageSource) -> str:
    names = source.class_names or ()
    return f"{source.name} with {len(names)} ({listed(names, 5)})"
