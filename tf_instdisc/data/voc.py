"""Images with boxes in the format of PASCAL VOC: a folder, or TFDS.

VOC counts pixels from 1, and a box includes its last pixel: `xmin=1, xmax=10`
means ten columns, with edges at 0 and 10. With edges, areas and overlaps equal
those of VOC's own evaluation.
"""

import os
import re
import xml.etree.ElementTree
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_instdisc.config.data import IMAGE_SUFFIXES
from tf_instdisc.data.detection_source import (
    DetectionSource,
    Objects,
    image_sizes,
    require_none,
    within_images,
)
from tf_instdisc.data.file_checks import read_files
from tf_instdisc.errors import MissingFileError, UsageError
from tf_instdisc.paths import local_path
from tf_instdisc.text import listed


def voc_folder(
    folder: str, split: str, class_names: Sequence[str] | None = None
) -> DetectionSource:
    """Reads a split of a folder with Annotations, ImageSets and JPEGImages.

    Every image is decoded and every annotation checked immediately. Boxes are
    clipped to their image; those that are then empty are left out.

    Args:
        folder: Path of the folder.
        split: Name of a file in `ImageSets/Main`, without `.txt`; each of its
            lines holds the name of one image, without suffix.
        class_names: The known classes; by default those in the split, sorted.

    Raises:
        UsageError: If something is missing or cannot be read, an annotation
            has an unknown class or states another size than its image has, or
            the split has no objects.
    """
    folder = local_path(folder, "folder")
    names, paths = _split_images(folder, split)
    annotations = os.path.join(folder, "Annotations")
    require_none(
        [n for n, path in zip(names, paths, strict=True) if not path],
        f"Each name in {split}.txt must have an image in "
        f"{folder}/JPEGImages ({', '.join(IMAGE_SUFFIXES)})",
        MissingFileError,
    )
    files = [os.path.join(annotations, f"{name}.xml") for name in names]
    require_none(
        [file for file in files if not os.path.exists(file)],
        f"Each name in {split}.txt must have an annotation",
        MissingFileError,
    )
    found = [_read_annotation(file) for file in files]
    if class_names is None:
        class_names = sorted({name for entry in found for name in entry[0]})
    sizes = image_sizes(read_files(paths), paths)
    index = {name: i for i, name in enumerate(class_names)}
    objects = []
    for file, size, entry in zip(files, sizes, found, strict=True):
        object_names, boxes, difficult, stated_size = entry
        unknown = sorted({name for name in object_names if name not in index})
        if unknown:
            raise UsageError(
                "Classes must be those of the training split "
                f"({listed(class_names)}). Received: {listed(unknown)} in "
                f"{file}"
            )
        if stated_size is not None and stated_size != tuple(size):
            raise UsageError(
                f"An annotation must state its image's size. Received: {file} "
                f"with height and width {stated_size}, an image of "
                f"{tuple(map(int, size))}"
            )
        classes = [index[name] for name in object_names]
        objects.append(_objects(boxes, classes, difficult))
    name = f"{os.path.basename(os.path.abspath(folder))}/{split}"
    return DetectionSource(
        name,
        tuple(class_names),
        sizes,
        within_images(name, objects, sizes),
        lambda: read_files(paths),
    )


def voc_tfds(
    dataset: str,
    split: str,
    data_dir: str | None = None,
    image_key: str = "image",
    label_key: str = "label",
) -> DetectionSource:
    """Reads a split of a TFDS dataset with boxes; prepares it if necessary.

    Args:
        dataset: Name of a builder whose `objects` have `bbox` and `label`,
            such as `"voc/2007"`. Evaluation ignores objects with
            `is_difficult`, or `is_crowd` as in COCO.
        split: A split or a sum of splits: `"train+validation"`.
        data_dir: Directory in which TFDS keeps its data; by default, TFDS
            chooses it.
        image_key: Name of the feature that holds the images, which must be
            8-bit files.
        label_key: Name of the class in `objects`.
    """
    import tensorflow_datasets as tfds

    from tf_instdisc.data import tfds_builder, tfds_features

    builder = tfds_builder.open_builder(dataset, data_dir)
    features = builder.info.features
    class_names = _class_names(features, label_key, dataset)
    image = tfds_features.find_image(features, image_key, dataset)
    if not image.is_file:
        raise UsageError(
            "The images of a detection must be 8-bit files. Received: "
            f"image_key={image_key!r}, of {image.dtype}"
        )
    tfds_builder.prepare(builder, dataset)
    tfds_builder.require_tfrecord(builder)
    tfds_builder.require_split(builder, split)

    def read() -> tf.data.Dataset:
        return builder.as_dataset(
            split=split,
            decoders=tfds_features.nested(
                {image_key: tfds.decode.SkipDecoding()}, features
            ),
            # Shards are read one after the other, for a fixed order.
            read_config=tfds.ReadConfig(interleave_cycle_length=1),
        )

    def images() -> tf.data.Dataset:
        return read().map(lambda e: tfds_features.at(e, image_key))

    found = [example["objects"] for example in tfds.as_numpy(read())]
    name = f"{dataset}/{split}"
    sizes = image_sizes(images(), [f"{name}/{i}" for i in range(len(found))])
    # TFDS divides VOC's own coordinates, which begin at 1, by the size.
    first = 1.0 if builder.name == "voc" else 0.0
    objects = []
    for entry, size in zip(found, sizes, strict=True):
        boxes = _edges(entry["bbox"], size, first)
        none = np.zeros(len(boxes), bool)
        difficult = entry.get("is_difficult", entry.get("is_crowd", none))
        objects.append(_objects(boxes, entry[label_key], difficult))
    return DetectionSource(
        name, class_names, sizes, within_images(name, objects, sizes), images
    )


def _objects(
    boxes: np.ndarray | Sequence[Sequence[float]],
    classes: np.ndarray | Sequence[int],
    difficult: np.ndarray | Sequence[bool],
) -> Objects:
    return Objects(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(classes, np.int64),
        np.asarray(difficult, bool),
    )


def _class_names(
    features: Mapping[str, Any], label_key: str, dataset: str
) -> tuple[str, ...]:
    fields: Mapping[str, Any] = {}
    if "objects" in features:
        fields = getattr(features["objects"], "feature", {})
    has_keys = "bbox" in fields and label_key in fields
    if not has_keys or not hasattr(fields[label_key], "names"):
        objects_hold = f" and objects of {', '.join(fields)}" if fields else ""
        raise UsageError(
            "`dataset` must have boxes: a feature `objects` of `bbox` and "
            f"class `{label_key}`. Received: dataset={dataset!r} with "
            f"{', '.join(features)}{objects_hold}"
        )
    return tuple(fields[label_key].names)


def _edges(relative: np.ndarray, size: np.ndarray, first: float) -> np.ndarray:
    """Converts boxes of TFDS to pixels: left, top, right, bottom, `[n, 4]`."""
    height, width = size
    top, left, bottom, right = relative.reshape(-1, 4).T
    return np.stack(
        [
            left * width - first,
            top * height - first,
            right * width,
            bottom * height,
        ],
        axis=-1,
    )


def _split_images(folder: str, split: str) -> tuple[list[str], list[str]]:
    """Returns names of images and their paths, empty where one is missing."""
    splits = os.path.join(folder, "ImageSets", "Main")
    for path in (os.path.join(folder, "JPEGImages"), splits):
        if not os.path.isdir(path):
            raise MissingFileError(
                "The folder must hold Annotations, ImageSets/Main and "
                f"JPEGImages. Received: folder={folder!r} without {path}"
            )
    path = os.path.join(splits, f"{split}.txt")
    if not os.path.exists(path):
        known = sorted(
            name.removesuffix(".txt")
            for name in os.listdir(splits)
            if name.endswith(".txt")
        )
        raise MissingFileError(
            f"`split` must be one of {', '.join(known)}. Received: "
            f"split={split!r}"
        )
    with open(path, encoding="utf-8", errors="replace") as file:
        names = [line.strip() for line in file if line.strip()]
    images = _image_files(folder)
    of_class = re.compile(r".*\s(-1|0|1)")  # "name -1": in a class's list.
    strange = [n for n in names if n not in images and of_class.fullmatch(n)]
    if not names or strange:
        raise UsageError(
            f"{path} must list at least one image, with one name in each "
            f"line. Received: {len(names)} lines, of which the wrong ones are: "
            f"{listed(strange) or 'none'}. Name the split of all classes."
        )
    return names, [images.get(name, "") for name in names]


def _image_files(folder: str) -> dict[str, str]:
    """Returns the paths of images by their names without suffix."""
    directory = os.path.join(folder, "JPEGImages")
    return {
        os.path.splitext(name)[0]: os.path.join(directory, name)
        for name in sorted(os.listdir(directory))
        if name.lower().endswith(IMAGE_SUFFIXES)
    }


def _read_annotation(
    path: str,
) -> tuple[list[str], list[list[float]], list[bool], tuple[int, int] | None]:
    """Returns names, boxes `[n, 4]`, difficult flags and any stated size."""
    try:
        root = xml.etree.ElementTree.parse(path).getroot()
        names, boxes, difficult = [], [], []
        for element in root.findall("object"):
            names.append(_text(element, "name").strip())
            left, top, right, bottom = (
                float(_text(element, f"bndbox/{edge}"))
                for edge in ("xmin", "ymin", "xmax", "ymax")
            )
            boxes.append([left - 1, top - 1, right, bottom])
            flag = (element.findtext("difficult") or "0").strip()
            difficult.append({"0": False, "1": True}[flag])
        height, width = (
            int(float(root.findtext(f"size/{side}") or 0))
            for side in ("height", "width")
        )
    except (
        xml.etree.ElementTree.ParseError,
        LookupError,
        OverflowError,
        ValueError,
    ) as error:
        raise UsageError(
            "An annotation must be XML in VOC's format: objects with a name, "
            "bndbox of xmin, ymin, xmax, ymax, and difficult 0 or 1. "
            f"Received: {path}: {type(error).__name__}: {error}"
        ) from error
    size = (height, width) if min(height, width) > 0 else None
    return names, boxes, difficult, size


def _text(element: xml.etree.ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"an {element.tag} without {path}")
    return text
