"""A folder of images, with or without a subfolder for each class."""

import os
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tf_instdisc.config.data import BAD_IMAGES
from tf_instdisc.config.fields import require_choice
from tf_instdisc.data import file_checks
from tf_instdisc.data.folder_listing import image_paths
from tf_instdisc.data.formats import bmp
from tf_instdisc.data.sources import (
    NO_LABEL,
    FileExamples,
    ImageSource,
    in_memory,
)
from tf_instdisc.errors import UsageError
from tf_instdisc.paths import local_path
from tf_instdisc.text import lines_of, listed, shown


class UnreadableImageError(UsageError):
    """A folder contains images that cannot be decoded."""


def folder_source(
    folder: str,
    bad_images: str = "fail",
    known_ids: Mapping[str, int] | None = None,
    num_instances: int | None = None,
    memory: pathlib.Path | None = None,
) -> ImageSource:
    """Reads all images below a folder.

    The sorted relative paths are the instances, unless the images already have
    ids; an id without an image then counts as unreadable. The first part of a
    path is the class of the image. Images outside the subfolders have no
    label; if they are the majority, no image has one. Every image is decoded
    once, to find those that cannot be decoded.

    ```python
    source = tf_instdisc.folder_source("photos", bad_images="skip")
    print(source.num_instances, source.class_names, source.instance_name(0))
    ```

    Args:
        folder: Path, searched by `image_paths`.
        bad_images: `"fail"` if an image cannot be read, or `"skip"`: the image
            keeps its id, but is never trained on.
        known_ids: Ids by relative path, as assigned by an earlier run.
        num_instances: With `known_ids`: one more than the highest id ever
            assigned.
        memory: File that remembers which images can be decoded, so that the
            next start decodes only new ones.

    Returns:
        The source; its examples are encoded.

    Raises:
        FileNotFoundError: If the folder is missing or contains no image.
        UnreadableImageError: If an image cannot be read and must not be
            skipped, or if no image can be read.
        UsageError: If `bad_images` is unknown, or an image has no known id.
    """
    require_choice("bad_images", bad_images, BAD_IMAGES)
    folder = local_path(folder, "folder")
    found = image_paths(folder)
    ids = np.arange(len(found))
    if known_ids is not None:
        ids = _ids_of(found, known_ids, folder)
    names = [""] * (num_instances or len(found))
    for instance_id, name in zip(ids, found, strict=True):
        names[instance_id] = name
    paths = [os.path.join(folder, name) for name in names]
    readable = np.zeros([len(names)], bool)
    readable[ids] = file_checks.readable_files(folder, found, memory)
    unreadable = tuple(int(i) for i in np.flatnonzero(~readable))
    bad = [names[i] for i in unreadable if names[i]]
    if bad:
        report_unreadable(bad, len(found), folder, bad_images)

    classes = class_names(found, folder)
    labels = np.full([len(names)], NO_LABEL, np.int64)
    labels[ids] = labels_of(found, classes)
    # Their rows are never trained, so they must not vote in kNN.
    labels[~readable] = NO_LABEL
    listed_paths = in_memory(paths, labels, np.flatnonzero(readable))
    return ImageSource(
        name=os.path.basename(os.path.abspath(folder)),
        num_instances=len(names),
        examples=FileExamples(listed_paths),
        class_names=tuple(classes) or None,
        instance_name=names.__getitem__,
        labels=lambda: labels,
        unreadable=unreadable,
        folder=folder,
    )


def _ids_of(
    names: list[str], known_ids: Mapping[str, int], folder: str
) -> np.ndarray:
    unknown = [name for name in names if name not in known_ids]
    if unknown:
        raise UsageError(
            f"Every image of {folder} must have a row in the run that this "
            f"one starts from; {len(unknown)} have none: {listed(unknown)}. "
            "Run instdisc-update first."
        )
    return np.array([known_ids[name] for name in names], np.int64)


def class_names(names: list[str], folder: str) -> list[str]:
    """Returns the class subfolders; reports images that have no class."""
    beside = [name for name in names if "/" not in name]
    if len(beside) == len(names):
        return []
    are_most = 2 * len(beside) > len(names)
    if beside:
        effect = "no image has a label" if are_most else "they have no label"
        print(
            f"In {shown(folder)}, {len(beside)} of {len(names)} images are "
            f"outside the subfolders ({listed(beside, 3)}): {effect}.",
            file=sys.stderr,
            flush=True,
        )
    if are_most:
        return []
    return sorted({name.split("/")[0] for name in names if "/" in name})


def labels_of(names: Iterable[str], class_names: Sequence[str]) -> np.ndarray:
    """Returns the class of each file, int64: the first folder of its path.

    It is `NO_LABEL` for files in none of the classes.
    """
    label_of = {name: label for label, name in enumerate(class_names)}
    return np.array(
        [
            label_of.get(name.split("/")[0], NO_LABEL)
            if "/" in name
            else NO_LABEL
            for name in names
        ],
        np.int64,
    )


def report_unreadable(
    bad_names: list[str], num_images: int, folder: str, bad_images: str
) -> None:
    """Names the images that cannot be read, and says that they are left out.

    Raises:
        UnreadableImageError: If the images must not be skipped, or if no
            image can be read.
    """
    message = (
        f"{len(bad_names)} of {num_images} images in {shown(folder)} cannot be "
        f"read:{lines_of(bad_names)}"
    )
    if any(name.lower().endswith(".bmp") for name in bad_names):
        message += f"\nA BMP must be {bmp.READ}."
    if bad_images == "fail" or len(bad_names) == num_images:
        raise UnreadableImageError(
            f"{message}\nRepair or remove them, or leave them out with "
            "bad_images='skip'."
        )
    print(f"{message}\nThey are left out.", flush=True)
