"""Trains and evaluates detectors for the detection protocol."""

import dataclasses
import functools
import math
import warnings
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from tf_instdisc import progress
from tf_instdisc.data import detection_pipeline
from tf_instdisc.data.detection_source import DetectionSource
from tf_instdisc.data.voc import voc_folder, voc_tfds
from tf_instdisc.errors import UsageError
from tf_instdisc.evaluation import average_precision
from tf_instdisc.evaluation.average_precision import Detections
from tf_instdisc.evaluation.detection_protocol import DetectionOptions
from tf_instdisc.training.optimizer import build_schedule
from tf_instdisc.training.supervised import advancing, require_finite

_GRADIENT_NORM = 10.0
_WEIGHT_DECAY = 1e-4
_WARMUP_FRACTION = 0.05


@dataclasses.dataclass(frozen=True)
class DetectionInputs:
    """A trained encoder and images with boxes.

    Attributes:
        encoder: A trained encoder, with layers `conv1` .. `conv5`.
        options: The data and training settings of the detectors.
        data_dir: Where TFDS keeps its data; by default, TFDS chooses it.
    """

    encoder: keras.Model
    options: DetectionOptions
    data_dir: str | None = None

    @functools.cached_property
    def sources(self) -> tuple[DetectionSource, DetectionSource]:
        """The training and test images.

        Raises:
            FileNotFoundError: If a folder, split, image or annotation is
                missing.
            UsageError: If the data cannot be used.
        """
        train = self._open("train", self._train_split)
        test_split = self.options.test_split
        return train, self._open("test", test_split, train.class_names)

    @property
    def end(self) -> str:
        """The end of measurement names: the data, and what is not default."""
        options = self.options
        place = options.images or options.dataset
        end = f", to {place}/{self._train_split}"
        for key, default in (("image_key", "image"), ("label_key", "label")):
            if (value := getattr(options, key)) != default:
                end += f", {key}={value}"
        if options.test_split != "test":
            end += f", tested on {options.test_split}"
        return end

    @property
    def _train_split(self) -> str:
        options = self.options
        default = "trainval" if options.images else "train+validation"
        return options.train_split or default

    def _open(
        self, part: str, split: str, class_names: Sequence[str] | None = None
    ) -> DetectionSource:
        options = self.options
        try:
            if options.images is not None:
                return voc_folder(options.images, split, class_names)
            return voc_tfds(
                options.dataset or "",
                split,
                self.data_dir,
                options.image_key,
                options.label_key,
            )
        except UsageError as error:
            # The flags of the run's own images have the same names.
            raise type(error)(
                f"The {part} images of the detection protocol "
                f"(--detection_{part}_split={split}): {error}"
            ) from error

    def train(
        self, model: keras.Model
    ) -> Iterator[tuple[int, dict[str, float]]]:
        """Trains; yields each epoch, from 1, with its loss and metrics.

        Raises:
            NonFiniteError: If the training diverges.
        """
        options = self.options
        train, test = self.sources
        steps_per_epoch = math.ceil(train.num_images / options.batch_size)
        rate = build_schedule(
            "cosine",
            learning_rate=options.learning_rate,
            steps_per_epoch=steps_per_epoch,
            epochs=options.epochs,
            warmup_epochs=_WARMUP_FRACTION * options.epochs,
        )
        steps = options.epochs * steps_per_epoch
        model.compile(
            box_loss="smoothl1",
            classification_loss="focal",
            optimizer=keras.optimizers.AdamW(
                rate, weight_decay=_WEIGHT_DECAY, global_clipnorm=_GRADIENT_NORM
            ),
            # Keras 3.15 enables XLA on a GPU, and XLA does not support the
            # decoder's CombinedNonMaxSuppression (TensorFlow 2.21).
            jit_compile=False,
        )
        examples = detection_pipeline.examples(train, options.image_size)
        images = detection_pipeline.square_images(test, options.image_size)
        images = images.batch(options.batch_size)
        with (
            progress.tracking("training a detector", steps) as advance,
            warnings.catch_warnings(),
        ):
            # The RetinaNet of keras_cv 0.9 names its input but is called
            # without the name, about which Keras 3.15 warns.
            warnings.filterwarnings("ignore", "The structure of `inputs`")
            for epoch in range(options.epochs):
                batches = detection_pipeline.epoch_batches(
                    examples, options.batch_size, epoch, options.seed
                )
                fitted = model.fit(
                    batches,
                    verbose=0,
                    shuffle=False,
                    callbacks=[advancing(advance)],
                )
                (loss,) = fitted.history["loss"]
                require_finite(
                    loss,
                    "a detector",
                    "detection_learning_rate",
                    options.learning_rate,
                )
                predicted = model.predict(images, verbose=0)
                found = _detections(predicted, test.sizes, options.image_size)
                yield (
                    epoch + 1,
                    {
                        "loss": loss,
                        **metrics_of(test, found),
                    },
                )


def metrics_of(
    source: DetectionSource, found: list[Detections]
) -> dict[str, float]:
    """Returns all metrics by name; VOC's per class are `voc_ap/NAME`."""
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


def _detections(
    predicted: dict[str, np.ndarray], sizes: np.ndarray, image_size: int
) -> list[Detections]:
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
