"""Opens the images that a run is trained and tested on; nothing else does.

Settings have the names and defaults of the flags of `instdisc-train`.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

from tf_instdisc.data.sources import ImageSource
from tf_instdisc.errors import UsageError
from tf_instdisc.paths import local_path

_FOLDER = ("images", "test_images")
_TFDS = ("dataset", "split", "test_split", "image_key", "label_key")


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which images a run is trained and tested on.

    Attributes:
        dataset: A TFDS data set; or
        images: a folder of images.
        split: Split of `dataset` to train on.
        test_split: Split of `dataset` to test on, as `test_split_of` takes it.
        data_dir: Where TFDS keeps its data.
        image_key: As in `tfds_source`.
        label_key: As in `tfds_source`.
        cache: As in `tfds_source`.
        shuffle_buffer: As in `tfds_source`.
        test_images: A folder of images to test on, beside `images`.
        bad_images: As in `folder_source`.

    Raises:
        ValueError: If a path is a URL, or neither a data set nor a folder is
            given.
    """

    dataset: str | None = None
    images: str | None = None
    split: str = "train"
    test_split: str | None = None
    data_dir: str | None = None
    image_key: str | None = None
    label_key: str | None = None
    cache: str = "auto"
    shuffle_buffer: int = 16_384
    test_images: str | None = None
    bad_images: str = "fail"

    def __post_init__(self) -> None:
        if not self.dataset and not self.images:
            raise UsageError(
                "A run needs images. Received: none. Give --dataset, or "
                "--images and --test_images."
            )
        for name in ("data_dir", *_FOLDER):
            path = getattr(self, name)
            if path:
                object.__setattr__(self, name, local_path(path, name))

    @classmethod
    def from_flags(cls, flags: Mapping[str, str]) -> "DataSettings":
        """Reads the settings from the text of flags; others are left out."""
        names = [field.name for field in dataclasses.fields(cls)]
        values: dict = {n: flags[n] for n in names if n in flags}
        if "shuffle_buffer" in values:
            values["shuffle_buffer"] = int(values["shuffle_buffer"])
        return cls(**values)


def open_train(
    settings: DataSettings,
    known_ids: Mapping[str, int] | None = None,
    num_instances: int | None = None,
    memory: pathlib.Path | None = None,
) -> ImageSource:
    """Opens the images to train on.

    Args:
        settings: Which ones.
        known_ids: As in `folder_source`.
        num_instances: As in `folder_source`.
        memory: As in `folder_source` or `tfds_source`.

    Raises:
        FileNotFoundError: If the folder is missing or holds no image.
        ValueError: If the data set cannot be read as images.
    """
    if settings.images:
        from tf_instdisc.data.folder import folder_source

        return folder_source(
            settings.images,
            settings.bad_images,
            known_ids,
            num_instances,
            memory,
        )
    return _from_tfds(settings, settings.split, memory)


def open_test(
    settings: DataSettings, memory: pathlib.Path | None = None
) -> ImageSource | None:
    """Opens the images to test on.

    Args:
        settings: Which ones.
        memory: As in `folder_source`.

    Returns:
        The source, or None where there are no test images.

    Raises:
        FileNotFoundError: If the folder is missing or holds no image.
        ValueError: If the data set cannot be read as images.
    """
    if settings.images:
        from tf_instdisc.data.folder import folder_source

        if not settings.test_images:
            return None
        return folder_source(
            settings.test_images, settings.bad_images, memory=memory
        )
    from tf_instdisc.data.tfds_source import test_split_of

    split = test_split_of(
        settings.dataset or "", settings.data_dir, settings.test_split
    )
    if split is None:
        return None
    try:
        return _from_tfds(settings, split)
    except UsageError as error:
        raise UsageError(
            f"--test_split={split} cannot be read; an empty --test_split= "
            f"does without test images. {error}"
        ) from error


def with_overrides(
    flags: Mapping[str, str], overrides: Mapping[str, str]
) -> dict[str, str]:
    """A run's flags with others in their place.

    A data set takes the place of another one with its splits and keys, and of
    folders; a folder takes the place of a data set.

    Args:
        flags: The run's flags, by name.
        overrides: Flags that name images, by name.

    Raises:
        ValueError: If an override does not go with the images, such as a
            split with a folder.
    """
    flags = dict(flags)
    replaced: tuple[str, ...] = ()
    if "dataset" in overrides:
        replaced = (*_FOLDER, *_TFDS)
    elif "images" in overrides:
        replaced = _TFDS
    for name in replaced:
        flags.pop(name, None)
    merged = {**flags, **overrides}
    wrong = [n for n in _FOLDER if n in overrides and merged.get("dataset")]
    if merged.get("images"):
        wrong = [name for name in _TFDS if name in overrides]
    if wrong:
        kind = "images" if merged.get("images") else "dataset"
        raise UsageError(
            f"--{wrong[0]} does not go with --{kind}. Received: "
            f"--{wrong[0]}={overrides[wrong[0]]} and "
            f"--{kind}={merged[kind]}. Leave one of them out."
        )
    return merged


def _from_tfds(
    settings: DataSettings, split: str, memory: pathlib.Path | None = None
) -> ImageSource:
    from tf_instdisc.data.tfds_source import tfds_source

    return tfds_source(
        settings.dataset or "",
        split,
        settings.data_dir,
        settings.cache,
        settings.shuffle_buffer,
        settings.image_key,
        settings.label_key,
        memory,
    )
