"""The images of a finished run, located by its settings and names."""

import dataclasses
import functools
import os
import sys
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import tensorflow as tf

from tf_instdisc import progress
from tf_instdisc.config import DataConfig, RunConfig
from tf_instdisc.data import decode
from tf_instdisc.data.file_checks import read_files
from tf_instdisc.data.folder_listing import image_paths_at
from tf_instdisc.data.sources import NO_LABEL, ImageSource
from tf_instdisc.data.subset import renumbered
from tf_instdisc.errors import UsageError
from tf_instdisc.paths import local_path
from tf_instdisc.runs import sources
from tf_instdisc.runs.bank import Bank
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.text import shown

_MISSING_GRAY = 128


@dataclasses.dataclass(frozen=True)
class RunImages:
    """Reads images by their position in the bank.

    Images in a folder are found by name, those of a TFDS dataset by id. An
    image that no longer exists or cannot be decoded counts as missing, which
    is not an error, as do all images of a converted run without a folder, and
    of a dataset that would have to be downloaded.

    Attributes:
        bank: The run's bank.
        config: The run's settings.
        source: The source of images of a TFDS dataset, if it is open.
        title: Name to show to the user, if they are one of several collections.
    """

    bank: Bank
    config: RunConfig
    source: ImageSource | None = None
    title: str = ""

    @property
    def image_size(self) -> int:
        """Side of the encoder's input, in pixels."""
        return self.config.data.image_size

    @property
    def crop_fraction(self) -> float:
        return self.config.data.crop_fraction

    def read(
        self,
        positions: np.ndarray,
        size: int,
        crop_fraction: float = DataConfig.crop_fraction,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reads images, resized and cropped to a square.

        Args:
            positions: int `[count]`, rows of the bank; repeats are read once.
            size: Side of the result, in pixels.
            crop_fraction: As in `evaluation_dataset`.

        Returns:
            uint8 `[count, size, size, 3]`, gray for missing images, and bool
            `[count]`, whether an image was found.
        """
        unique, inverse = np.unique(positions, return_inverse=True)
        images = np.full([len(unique), size, size, 3], _MISSING_GRAY, np.uint8)
        found = np.zeros([len(unique)], bool)
        for slots, batch in self.batches(unique, size, crop_fraction):
            images[slots] = np.clip(np.round(batch), 0, 255)
            found[slots] = True
        return images[inverse], found[inverse]

    def batches(
        self,
        positions: np.ndarray,
        size: int,
        crop_fraction: float = DataConfig.crop_fraction,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Reads images in batches, in any order; skips missing ones.

        Args:
            positions: int `[count]`, distinct rows of the bank.
            size: Side of the images, in pixels.
            crop_fraction: As in `evaluation_dataset`.

        Yields:
            Indices into `positions`, int64 `[batch]`, and their images,
            float32 `[batch, size, size, 3]` in 0..255.
        """
        positions = np.asarray(positions, np.int64)
        data = self.config.data
        if not len(positions):
            return
        if data.images:
            examples = self._from_folder(data.images, positions)
        elif self.source or (data.dataset and is_available(data)):
            examples = self._from_tfds(positions)
        else:
            return

        @tf.autograph.experimental.do_not_convert
        def prepare(
            slot: tf.Tensor, image: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor]:
            return slot, decode.center(image, size, crop_fraction)

        dataset = examples.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
        dataset = dataset.ignore_errors().batch(256).prefetch(1)
        with progress.tracking("reading images", len(positions)) as advance:
            for slots, batch in dataset.as_numpy_iterator():
                yield slots, batch
                advance(len(slots))

    def _from_folder(
        self, folder: str, positions: np.ndarray
    ) -> tf.data.Dataset:
        folder = local_path(folder, "images")
        names = self.bank.names[positions]
        paths = [os.path.join(folder, str(name)) for name in names]
        return read_files(paths).enumerate()

    def _from_tfds(self, positions: np.ndarray) -> tf.data.Dataset:
        source = self.source or sources.open_train(self.config.data)
        examples = renumbered(source, self.bank.instance_ids[positions])
        examples = examples.take(len(positions))
        return examples.map(lambda e: (e["instance_id"], e["image"]))


def is_available(data: DataConfig) -> bool:
    """Returns whether a dataset is prepared; says once if it is not."""
    from tf_instdisc.data import tfds_builder

    found = tfds_builder.is_available(data.dataset or "", data.data_dir)
    if not found:
        _note_missing(data.dataset, data.data_dir)
    return found


@functools.cache
def _note_missing(dataset: str, data_dir: str | None) -> None:
    place = f" --data_dir={shown(data_dir)}" if data_dir else ""
    print(
        f"note: the images of {dataset} are not on this machine, so none are "
        f"shown. `tfds build {dataset}{place}` downloads them; or give their "
        "directory with --data_dir.",
        file=sys.stderr,
    )


def open_images(
    run: RunDirectory, overrides: Mapping[str, str] | None = None
) -> RunImages:
    """Opens the images of a finished run.

    Args:
        overrides: `images` or `data_dir`, if the images were moved.

    Raises:
        RunDirectoryError: If the run is not finished.
        ValueError: If `images` is given for a run over a dataset.
    """
    config = run.read_config()
    data = config.data
    if "images" in (overrides or {}) and data.dataset:
        raise UsageError(
            "`images` requires a run over a folder. Received: a run over "
            f"--dataset={data.dataset}. Give --data_dir if the dataset was "
            "moved."
        )
    data = sources.with_overrides(data, overrides or {})
    return RunImages(run.load_bank(), dataclasses.replace(config, data=data))


def bank_of(rows: np.ndarray, source: ImageSource, ids: np.ndarray) -> Bank:
    """Returns rows with the names and labels of a source's images."""
    return Bank(
        rows=rows,
        instance_ids=ids,
        names=np.array([source.instance_name(int(i)) for i in ids]),
        labels=source.labels()[ids],
        class_names=source.class_names or (),
    )


def name_rows(rows: np.ndarray, images: str | None) -> Bank:
    """Returns a bank of rows that another program has computed.

    Args:
        rows: float32 `[size, embedding_dim]`, of unit length.
        images: The folder of their images, sorted by class and name as in
            torchvision; without it, the rows are numbered and have no labels.

    Raises:
        FileNotFoundError: If the folder is missing.
        UsageError: If it has another number of images.
    """
    names = [str(index) for index in range(len(rows))]
    labels = np.full([len(rows)], NO_LABEL, np.int64)
    classes: Iterable[str] = ()
    if images:
        names = sorted(image_paths_at(images), key=_order_of_torchvision)
        if len(names) != len(rows):
            raise UsageError(
                "`images` must be the folder from which the bank was computed, "
                f"with an image for each of its {len(rows):,} rows. Received: "
                f"images={images!r}, with {len(names):,} images"
            )
        if all("/" in name for name in names):
            tops = [name.split("/")[0] for name in names]
            classes, labels = np.unique(tops, return_inverse=True)
            labels = labels.astype(np.int64)
    return Bank(
        rows=rows,
        instance_ids=np.arange(len(rows)),
        names=np.array(names),
        labels=labels,
        class_names=tuple(str(name) for name in classes),
    )


def _order_of_torchvision(name: str) -> tuple[str, str, str]:
    """Returns what `ImageFolder` sorts by: class, directory and file name."""
    directory, _, file = name.rpartition("/")
    return name.partition("/")[0], directory, file
