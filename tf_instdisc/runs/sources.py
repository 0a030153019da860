"""The only module that opens a run's training and test images."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from tf_instdisc.config import DataConfig
from tf_instdisc.config.data import OF_A_DATASET
from tf_instdisc.data.sources import ImageSource
from tf_instdisc.errors import UsageError
from tf_instdisc.runs.files import RunFiles


def image_caches(run: RunFiles, data: DataConfig) -> dict[str, pathlib.Path]:
    """Returns the files in which a run caches what it learned of its images.

    Returns:
        `train` and `test`: which files of a folder can be decoded, or the
        labels of a dataset, which are kept in one file.
    """
    if data.images:
        return {"train": run.checked_images, "test": run.checked_test_images}
    return {"train": run.labels, "test": run.labels}


def open_train(
    data: DataConfig,
    known_ids: Mapping[str, int] | None = None,
    num_instances: int | None = None,
    memory: pathlib.Path | None = None,
) -> ImageSource:
    """Opens the images to train on.

    Other arguments are those of `folder_source` or `tfds_source`.

    Raises:
        FileNotFoundError: If the folder is missing or holds no image.
        UsageError: If the dataset cannot be read as images.
    """
    data.require_images()
    if data.images:
        from tf_instdisc.data.folder import folder_source

        return folder_source(
            data.images,
            data.bad_images,
            known_ids,
            num_instances,
            memory,
        )
    return _from_tfds(data, data.split, memory)


def open_test(
    data: DataConfig, memory: pathlib.Path | None = None
) -> ImageSource | None:
    """Opens the images to test on.

    A line says how many of them are also training images.

    Returns:
        The source, or None if there are no test images.

    Raises:
        FileNotFoundError: If the folder is missing or holds no image.
        UsageError: If the dataset cannot be read as images.
    """
    data.require_images()
    if data.images:
        from tf_instdisc.data.folder import folder_source

        if not data.test_images:
            return None
        source = folder_source(data.test_images, data.bad_images, memory=memory)
        _report_shared(
            _count_below(data.images, data.test_images, source),
            source,
            f"Give --test_images that share no file with {data.images}.",
        )
        return source
    from tf_instdisc.data.tfds_builder import count_shared, test_split_of

    split = test_split_of(data.dataset or "", data.data_dir, data.test_split)
    if split is None:
        return None
    try:
        source = _from_tfds(data, split, memory)
    except UsageError as error:
        raise UsageError(
            f"--test_split={split} cannot be read; an empty --test_split= "
            f"disables test images. {error}"
        ) from error
    _report_shared(
        count_shared(data.dataset or "", data.data_dir, data.split, split),
        source,
        f"Give a --test_split without images of --split={data.split}.",
    )
    return source


def with_overrides(
    data: DataConfig, overrides: Mapping[str, Any]
) -> DataConfig:
    """Returns the settings of a run's images, with overrides.

    A dataset replaces another one together with its splits and keys, and it
    replaces folders; a folder replaces a dataset.

    Args:
        overrides: Fields of `DataConfig` by name.

    Raises:
        UsageError: If an override cannot be combined with the images, such as
            a split with a folder.
    """
    replaced: set[str] = set()
    if "dataset" in overrides:
        # The other dataset is expected in the same directory.
        replaced = {"images", "test_images", *OF_A_DATASET} - {"data_dir"}
    elif "images" in overrides:
        replaced = {"dataset", *OF_A_DATASET}
    defaults = {f.name: f.default for f in dataclasses.fields(DataConfig)}
    kept = {name: defaults[name] for name in replaced}
    return dataclasses.replace(data, **{**kept, **overrides})


def _from_tfds(
    data: DataConfig, split: str, memory: pathlib.Path | None
) -> ImageSource:
    from tf_instdisc.data.tfds_source import tfds_source

    return tfds_source(
        data.dataset or "",
        split,
        data.data_dir,
        data.cache,
        data.shuffle_buffer,
        data.image_key,
        data.label_key,
        memory,
    )


def _count_below(
    folder: str, test_folder: str, test_source: ImageSource
) -> int:
    """Returns how many test images are files below the training folder."""
    folder = os.path.join(os.path.realpath(folder), "")
    files = (
        os.path.join(test_folder, test_source.instance_name(i))
        for i in range(test_source.num_instances)
    )
    return sum(os.path.realpath(file).startswith(folder) for file in files)


def _report_shared(count: int, test_source: ImageSource, cure: str) -> None:
    if count:
        print(
            f"{count} of the {test_source.num_instances} test images are also "
            "training images, so kNN finds each of them in the bank, and all "
            f"accuracies are too high. {cure}",
            flush=True,
        )
