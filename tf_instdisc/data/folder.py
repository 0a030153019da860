"""A folder of images, with or without a subfolder for each class."""

import os
import pathlib
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tf_instdisc import choices
from tf_instdisc.data import decode
from tf_instdisc.data.sources import NO_LABEL, ImageSource, shuffled
from tf_instdisc.errors import MissingFileError, UsageError
from tf_instdisc.text import shown

_NAMED_AT_MOST = 20


class UnreadableImageError(UsageError):
    """A folder holds images that cannot be decoded."""


def folder_source(
    folder: str,
    bad_images: str = "fail",
    known_ids: Mapping[str, int] | None = None,
    num_instances: int | None = None,
) -> ImageSource:
    """Reads all images below a folder.

    The sorted relative paths are the instances, unless they have ids already;
    an id without an image then counts as unreadable. If every image lies in a
    subfolder, the first part of its path is its class. Every image is decoded
    once, to find those that cannot be.

    Args:
        folder: Path; searched through all levels, hidden files left out.
        bad_images: `"fail"` if an image cannot be read, or `"skip"` it: it
            keeps its id, and is never trained on.
        known_ids: Ids by relative path, as an earlier run gave them.
        num_instances: With `known_ids`: one more than the highest id that
            was ever given.

    Returns:
        The source; its examples are encoded.

    Raises:
        FileNotFoundError: If the folder is missing or holds no image.
        UnreadableImageError: If an image cannot be read and is not to be
            skipped, or if none can be read.
        ValueError: If `bad_images` is unknown, or an image has no known id.
    """
    choices.require("bad_images", bad_images, choices.BAD_IMAGES)
    found = image_paths(folder)
    ids = np.arange(len(found))
    if known_ids is not None:
        ids = _ids_of(found, known_ids, folder)
    names = [""] * (num_instances or len(found))
    for instance_id, name in zip(ids, found, strict=True):
        names[instance_id] = name
    paths = [os.path.join(folder, name) for name in names]
    readable = np.zeros([len(names)], bool)
    readable[ids] = _readable([paths[i] for i in ids])
    unreadable = tuple(int(i) for i in np.flatnonzero(~readable))
    bad = [names[i] for i in unreadable if names[i]]
    if bad:
        report_unreadable(bad, len(found), folder, bad_images)

    classes = sorted({name.split("/")[0] for name in found if "/" in name})
    has_classes = all("/" in name for name in found)
    labels = np.full([len(names)], NO_LABEL, np.int64)
    if has_classes:
        labels[ids] = [classes.index(name.split("/")[0]) for name in found]
        # Their rows are never trained, and must not vote in kNN.
        labels[~readable] = NO_LABEL
    # On the host, and not as Python lists, which every graph would copy.
    with tf.device("CPU:0"):
        path_tensor, label_tensor = tf.constant(paths), tf.constant(labels)
        readable_ids = tf.constant(np.flatnonzero(readable), tf.int64)

    def examples(shuffle_seed):
        def read(instance_id):
            return {
                "image": tf.io.read_file(tf.gather(path_tensor, instance_id)),
                "instance_id": instance_id,
                "label": tf.gather(label_tensor, instance_id),
            }

        order = shuffled(len(names) - len(unreadable), shuffle_seed)
        ids = tf.gather(readable_ids, order)
        dataset = tf.data.Dataset.from_tensor_slices(ids)
        return dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE)

    return ImageSource(
        name=os.path.basename(os.path.abspath(folder)),
        num_instances=len(names),
        examples=examples,
        class_names=tuple(classes) if has_classes else None,
        instance_name=names.__getitem__,
        labels=lambda: labels,
        unreadable=unreadable,
        folder=folder,
    )


def image_paths(
    folder: str, suffixes: tuple[str, ...] = choices.IMAGE_SUFFIXES
) -> list[str]:
    """Lists the images below a folder, by their suffixes.

    Args:
        folder: Path; searched through all levels, hidden files left out.
        suffixes: Lower case, with their dots.

    Returns:
        Relative paths with forward slashes, sorted by code point.

    Raises:
        FileNotFoundError: If the folder is missing or holds no image.
        ValueError: If a name is not UTF-8.
    """
    root = pathlib.Path(folder)
    if not root.is_dir():
        raise MissingFileError(
            f"The folder of images must exist. Received: folder={folder!r}"
        )
    relative = (path.relative_to(root) for path in root.rglob("*"))
    names = sorted(
        path.as_posix()
        for path in relative
        if path.suffix.lower() in suffixes
        and not any(part.startswith(".") for part in path.parts)
    )
    for name in names:
        # Python stands bytes that are no UTF-8 in for by surrogates.
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise UsageError(
                "Names of images must be UTF-8. Received: "
                f"{os.fsencode(name)!r} in folder={folder!r}. Rename it."
            )
    if not names:
        raise MissingFileError(
            f"The folder must hold images ({', '.join(suffixes)}). "
            f"Received: folder={folder!r}"
        )
    return names


def _ids_of(names, known_ids, folder):
    unknown = [name for name in names if name not in known_ids]
    if unknown:
        named = ", ".join(map(shown, unknown[:_NAMED_AT_MOST]))
        raise UsageError(
            f"Every image of {folder} must have a row in the run that this "
            f"one begins with; {len(unknown)} have none: {named}. Run "
            "instdisc-update first."
        )
    return np.array([known_ids[name] for name in names], np.int64)


def _readable(paths: list[str]) -> np.ndarray:
    """bool `[len(paths)]`: which ones decode."""

    def decode_one(index, path):
        image = decode.decode_whole(tf.io.read_file(path))
        with tf.control_dependencies(
            [tf.debugging.assert_positive(tf.size(image))]
        ):
            return tf.identity(index)

    dataset = tf.data.Dataset.from_tensor_slices(paths).enumerate()
    dataset = dataset.map(decode_one, num_parallel_calls=tf.data.AUTOTUNE)
    readable = np.zeros([len(paths)], bool)
    for index in dataset.ignore_errors().as_numpy_iterator():
        readable[index] = True
    return readable


def report_unreadable(
    bad_names: list[str], num_images: int, folder: str, bad_images: str
) -> None:
    """Names images that cannot be read, and says what becomes of them.

    Args:
        bad_names: At least one.
        num_images: Images in the folder.
        folder: Path.
        bad_images: `"fail"` or `"skip"`.

    Raises:
        UnreadableImageError: If they are not to be skipped, or if they are
            all.
    """
    named = "".join(f"\n  {shown(name)}" for name in bad_names[:_NAMED_AT_MOST])
    if len(bad_names) > _NAMED_AT_MOST:
        named += f"\n  and {len(bad_names) - _NAMED_AT_MOST} more"
    message = (
        f"{len(bad_names)} of {num_images} images in {shown(folder)} cannot be "
        f"read:{named}"
    )
    if bad_images == "fail" or len(bad_names) == num_images:
        raise UnreadableImageError(
            f"{message}\nMend or remove them, or leave them out with "
            "bad_images='skip'."
        )
    print(f"{message}\nThey are left out.", flush=True)
