"""Detection: a RetinaNet on the trained encoder, against one from scratch.

The paper fine-tunes Fast R-CNN and Faster R-CNN on VOC 2007 (its section on
object detection); its numbers stand beside these for orientation.
"""

import dataclasses
import math
import warnings
from collections.abc import Iterator

import keras
import numpy as np

from tf_instdisc.data import detection_pipeline
from tf_instdisc.data.detection_source import DetectionSource
from tf_instdisc.data.voc import voc_folder, voc_tfds
from tf_instdisc.errors import UsageError
from tf_instdisc.evaluation.detectors import average_precision
from tf_instdisc.evaluation.detectors.average_precision import Detections
from tf_instdisc.evaluation.detectors.retinanet import build_retinanet
from tf_instdisc.evaluation.measurement import Measurement
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.runs.load import load_encoder
from tf_instdisc.text import shown

_ARMS = (("from scratch", False), ("pre-trained", True))
_METRICS = ("coco_map", "coco_ap50", "coco_ap75", "voc_map", "voc07_map")
_GRADIENT_NORM = 10.0
_WEIGHT_DECAY = 1e-4
_WARMUP_SHARE = 0.05


@dataclasses.dataclass(frozen=True)
class DetectionOptions:
    """What the detector learns from, and how.

    Attributes:
        dataset: TFDS data set with boxes, such as `"voc/2007"`; or
        images: a folder with Annotations, ImageSets and JPEGImages.
        train_split: Split to train on; by default `"train+validation"` of a
            data set and `"trainval"` of a folder.
        test_split: Split to measure on.
        data_dir: Where TFDS keeps its data; that of the run by default.
        image_key: As in `voc_tfds`.
        label_key: As in `voc_tfds`.
        image_size: Side in pixels to which images are resized, for training
            and measuring.
        epochs: Epochs of training; mAP is measured after each.
        batch_size: Images in a batch.
        learning_rate: The highest one, of AdamW, which falls along a cosine.
        frozen_layers: As in `build_retinanet`. The detector from scratch has
            nothing to keep and trains everything.
        frozen_batch_norm: As in `build_retinanet`; not from scratch.
        head_filters: As in `build_retinanet`.
        anchor_scale: As in `build_retinanet`.
        seed: In [0, 2**31); of new weights, order and flips.
    """

    dataset: str | None = None
    images: str | None = None
    train_split: str | None = None
    test_split: str = "test"
    data_dir: str | None = None
    image_key: str = "image"
    label_key: str = "label"
    image_size: int = 512
    epochs: int = 12
    batch_size: int = 16
    learning_rate: float = 1e-3
    frozen_layers: tuple[str, ...] = ()
    frozen_batch_norm: bool = False
    head_filters: int = 256
    anchor_scale: float = 4.0
    seed: int = 0

    def __post_init__(self):
        if (self.dataset is None) == (self.images is None):
            raise UsageError(
                "Detection needs either a data set or a folder of images "
                f"with boxes. Received: dataset={self.dataset!r}, "
                f"images={self.images!r}"
            )
        for name, holds, range_ in (
            ("image_size", self.image_size >= 32, "at least 32"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("learning_rate", self.learning_rate > 0, "above 0"),
            ("head_filters", self.head_filters >= 1, "at least 1"),
            ("anchor_scale", self.anchor_scale > 0, "above 0"),
            ("seed", 0 <= self.seed < 2**31, "in [0, 2**31)"),
        ):
            if not holds:
                raise UsageError(
                    f"`{name}` must be {range_}. Received: "
                    f"{name}={getattr(self, name)}"
                )


def measure(
    run: RunDirectory,
    options: DetectionOptions,
    data_dir: str | None = None,
) -> list[Measurement]:
    """Trains a detector from scratch and one from the run's encoder.

    Both begin with the same heads and see the same batches. Metrics of each
    epoch are kept in the run directory.

    Args:
        run: A finished run; its encoder has layers `conv1` .. `conv5`.
        options: What the detector learns from, and how.
        data_dir: In place of the run's, where `options` has none.

    Returns:
        For each detector, after the last epoch, COCO's mean average precision
        (`coco_map`, `coco_ap50`, `coco_ap75`) and VOC's: the area below the
        curve (`voc_map`), and eleven points as in VOC 2007 (`voc07_map`).

    Raises:
        FileNotFoundError: If a folder, split, image or annotation is missing.
        RunDirectoryError: If the run has not finished.
        ValueError: If the data cannot be used, does not fit the encoder, or
            pycocotools is missing.
    """
    average_precision.require_pycocotools()
    encoder = load_encoder(run.path)
    # Faults of size or names of layers are found before images are read.
    _build(encoder, options, num_classes=1, pretrained=True)
    own = run.read_config().data.data_dir
    data_dir = options.data_dir or data_dir or own
    options = dataclasses.replace(options, data_dir=data_dir)
    train, test = _sources(options)
    classes = ", ".join(map(shown, train.class_names))
    print(
        f"detection: {train.num_images} images to train on, "
        f"{test.num_images} to measure on; {classes}"
    )
    lines: list[dict] = []
    for arm, pretrained in _ARMS:
        keras.utils.set_random_seed(options.seed)
        model = _build(encoder, options, len(train.class_names), pretrained)
        for epoch, values in _train(model, train, test, options):
            lines.append({"detector": arm, "epoch": epoch, **values})
            run.save_detection(lines)
            print(
                f"{arm}, epoch {epoch}: loss {values['loss']:.3f}, COCO mAP "
                f"{values['coco_map']:.3f}, VOC mAP {values['voc_map']:.3f}",
                flush=True,
            )
    return [
        Measurement("detection", line["detector"], metric, line[metric])
        for line in lines
        if line["epoch"] == options.epochs
        for metric in _METRICS
    ]


def _build(encoder, options, num_classes, pretrained):
    return build_retinanet(
        encoder,
        options.image_size,
        num_classes,
        pretrained=pretrained,
        frozen_layers=options.frozen_layers if pretrained else (),
        frozen_batch_norm=options.frozen_batch_norm and pretrained,
        head_filters=options.head_filters,
        anchor_scale=options.anchor_scale,
    )


def _sources(options) -> tuple[DetectionSource, DetectionSource]:
    if options.images is not None:
        train = voc_folder(options.images, options.train_split or "trainval")
        test = voc_folder(options.images, options.test_split, train.class_names)
        return train, test
    train_split = options.train_split or "train+validation"
    train, test = (
        voc_tfds(
            options.dataset,
            split,
            options.data_dir,
            options.image_key,
            options.label_key,
        )
        for split in (train_split, options.test_split)
    )
    return train, test


def _train(
    model: keras.Model,
    train: DetectionSource,
    test: DetectionSource,
    options: DetectionOptions,
) -> Iterator[tuple[int, dict[str, float]]]:
    """Trains; gives the epoch, from 1, with its loss and metrics."""
    steps = math.ceil(train.num_images / options.batch_size) * options.epochs
    warmup_steps = round(_WARMUP_SHARE * steps)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0 if warmup_steps else options.learning_rate,
        steps - warmup_steps,
        warmup_target=options.learning_rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
    model.compile(
        box_loss="smoothl1",
        classification_loss="focal",
        optimizer=keras.optimizers.AdamW(
            rate, weight_decay=_WEIGHT_DECAY, global_clipnorm=_GRADIENT_NORM
        ),
        # XLA, which Keras 3.15 turns on beside a GPU, does not know the
        # decoder's CombinedNonMaxSuppression (TensorFlow 2.21).
        jit_compile=False,
    )
    examples = detection_pipeline.examples(train, options.image_size)
    images = detection_pipeline.square_images(test, options.image_size)
    images = images.batch(options.batch_size)
    with warnings.catch_warnings():
        # RetinaNet of keras_cv 0.9 names its input and is called without the
        # name, of which Keras 3.15 warns.
        warnings.filterwarnings("ignore", "The structure of `inputs`")
        for epoch in range(options.epochs):
            batches = detection_pipeline.epoch_batches(
                examples, options.batch_size, epoch, options.seed
            )
            fitted = model.fit(batches, verbose=0, shuffle=False)
            predicted = model.predict(images, verbose=0)
            found = _detections(predicted, test.sizes, options.image_size)
            yield (
                epoch + 1,
                {"loss": fitted.history["loss"][0], **evaluate(test, found)},
            )


def evaluate(
    source: DetectionSource, found: list[Detections]
) -> dict[str, float]:
    """All metrics by name, and VOC's of each class as `voc_ap/NAME`."""
    num_classes = len(source.class_names)
    area, points = (
        average_precision.voc_average_precision(
            source.objects, found, num_classes, eleven_points=eleven_points
        )
        for eleven_points in (False, True)
    )
    is_known = ~np.isnan(area)
    return {
        **average_precision.coco_average_precision(
            source.objects, found, num_classes
        ),
        "voc_map": float(area[is_known].mean()),
        "voc07_map": float(points[is_known].mean()),
        **{
            f"voc_ap/{name}": float(value)
            for name, value in zip(source.class_names, area, strict=True)
            if not np.isnan(value)
        },
    }


def _detections(predicted, sizes, image_size):
    found = []
    for i, size in enumerate(sizes):
        count = int(predicted["num_detections"][i])
        height_width = np.tile(size[::-1], 2)
        boxes = predicted["boxes"][i, :count] * (height_width / image_size)
        found.append(
            Detections(
                np.clip(boxes, 0, height_width).astype(np.float32),
                predicted["classes"][i, :count].astype(np.int64),
                predicted["confidence"][i, :count],
            )
        )
    return found
