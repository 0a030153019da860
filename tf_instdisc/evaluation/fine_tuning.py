"""Fine-tuning of the whole network with few labels, or with all."""

import dataclasses
import math

import keras
import numpy as np
import tensorflow as tf

from tf_instdisc import choices
from tf_instdisc.data import pipeline
from tf_instdisc.data.augment import Augmentation
from tf_instdisc.data.sources import ImageSource
from tf_instdisc.data.subset import subset
from tf_instdisc.errors import UsageError
from tf_instdisc.evaluation import paper, untrained
from tf_instdisc.evaluation.inputs import EvaluationInputs
from tf_instdisc.evaluation.linear import top_accuracies
from tf_instdisc.evaluation.measurement import Measurement
from tf_instdisc.method.fused_batch_norm import training_call
from tf_instdisc.training.optimizer import build_optimizer

FRACTIONS = (0.01, 0.02, 0.04, 0.1, 0.2)


@dataclasses.dataclass(frozen=True)
class FineTuneOptions:
    """Which labels, and how the network is trained on them.

    The defaults (70 epochs, SGD 0.01, a tenth after 30 and 60 of them) were
    written down from memory as the paper's and were not compared with it. The
    pre-trained network and the one from scratch get the same images, updates
    and augmentation.

    Attributes:
        fractions: Shares of the labels, in (0, 1].
        epochs: Epochs over the labelled images.
        min_updates: Updates that a few images get at least; the epochs are
            then more, and the schedule is stretched over them.
        batch_size: Images in a batch.
        optimizer: `"sgd"` or `"adamw"`.
        learning_rate: The highest rate.
        scratch_learning_rate: That of the network from scratch; None for the
            same.
        schedule: As in `build_optimizer`.
        schedule_epochs: As in `build_optimizer`.
        weight_decay: As in `build_optimizer`.
        min_crop_area: Smallest share of an image that is cropped; None for
            the run's.
        scratch: Whether the network from scratch is measured.
        seed: Seeds drawn labels, new weights, order and augmentation.

    Raises:
        ValueError: If one of them is out of range.
    """

    fractions: tuple[float, ...] = FRACTIONS
    epochs: int = 70
    min_updates: int = 0
    batch_size: int = 256
    optimizer: str = "sgd"
    learning_rate: float = 0.01
    scratch_learning_rate: float | None = None
    schedule: str = "steps"
    schedule_epochs: tuple[int, ...] = (30, 60)
    weight_decay: float = 1e-4
    min_crop_area: float | None = None
    scratch: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        choices.require("optimizer", self.optimizer, choices.OPTIMIZERS)
        choices.require("schedule", self.schedule, choices.SCHEDULES)
        for name, holds, wanted in (
            (
                "fractions",
                all(0 < fraction <= 1 for fraction in self.fractions),
                "in (0, 1]",
            ),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("min_updates", self.min_updates >= 0, "at least 0"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
        ):
            if not holds:
                raise UsageError(
                    f"`{name}` must be {wanted}. Received: "
                    f"{name}={getattr(self, name)}"
                )


def check(inputs: EvaluationInputs, options: FineTuneOptions) -> None:
    """Raises ValueError if a class is without a training image.

    Args:
        inputs: The run and its images.
        options: Not used.
    """
    del options
    counts = np.bincount(inputs.labels, minlength=inputs.num_classes)
    if not counts.all():
        names = inputs.source.class_names or ()
        lacking = [names[i] for i in np.flatnonzero(counts == 0)[:5]]
        raise UsageError(
            "Fine-tuning needs an image of each class to learn from. "
            f"Received: none of {', '.join(lacking)} in {inputs.source.name}"
        )


def measure(
    inputs: EvaluationInputs, options: FineTuneOptions | None = None
) -> list[Measurement]:
    """Fine-tunes with each share of the labels, and from scratch.

    Args:
        inputs: The run and its images.
        options: Labels and training.

    Returns:
        Top-1 and top-5 of the test images for each share.

    Raises:
        ValueError: As `check` does.
    """
    options = options or FineTuneOptions()
    return _measure(inputs, options, "semi_supervised", options.fractions)


def measure_all_labels(
    inputs: EvaluationInputs, options: FineTuneOptions | None = None
) -> list[Measurement]:
    """Fine-tunes with all labels; the options' fractions play no part."""
    return _measure(inputs, options or FineTuneOptions(), "finetune", (1.0,))


def _measure(inputs, options, protocol, fractions):
    check(inputs, options)
    tuning = FineTuning(inputs, options)
    found = []
    for is_pretrained in (True, False)[: 1 + options.scratch]:
        for fraction in fractions:
            ids = class_balanced_ids(inputs.source, fraction, options.seed)
            start = "pre-trained" if is_pretrained else "from scratch"
            name = f"{100 * fraction:g}% of the labels, {start}"
            tuning.train(subset(inputs.source, ids), is_pretrained)
            values = tuning.accuracies(inputs.images(inputs.test_source))
            print(
                f"{name}, {len(ids)} images: top-1 {100 * values['top1']:.1f}",
                flush=True,
            )
            number = paper.PaperNumber()
            if is_pretrained and protocol == "semi_supervised":
                number = paper.beside(
                    protocol, fraction, inputs.run.read_config(), inputs.config
                )
            found += [
                Measurement(protocol, name, "top1", values["top1"]),
                Measurement(protocol, name, "top5", values["top5"], *number),
            ]
    return found


def class_balanced_ids(
    source: ImageSource, fraction: float, seed: int
) -> np.ndarray:
    """Draws a share of the labelled images, as many of each class.

    A larger share holds the smaller ones of the same seed. A class with too
    few images gives all it has.

    Args:
        source: The images.
        fraction: In (0, 1]; 1 takes all labelled images.
        seed: Seeds the draw.

    Returns:
        int64 ids, ascending; at least one of each class that has images.
    """
    labels = np.array(source.labels())
    labels[list(source.unreadable)] = -1
    ids = np.flatnonzero(labels >= 0)
    if fraction == 1:
        return ids
    classes = np.unique(labels[ids])
    wanted = max(1, round(fraction * len(ids) / len(classes)))
    rng = np.random.default_rng(seed)
    drawn = [
        rng.permutation(np.flatnonzero(labels == label))[:wanted]
        for label in classes
    ]
    return np.sort(np.concatenate(drawn))


class FineTuning:
    """A classifier on the encoder's backbone, trained again and again.

    The run's encoder itself stays as it is. Trainings of equal length and
    rate share one graph: to make it takes as long as hundreds of updates of
    a small network.

    Args:
        inputs: The run; its settings say size and flip of the training images.
        options: How the network is trained.

    Attributes:
        network: The model from images to logits `[batch, num_classes]`.
    """

    def __init__(self, inputs: EvaluationInputs, options: FineTuneOptions):
        self._options = options
        self._augmentation = _augmentation(inputs, options)
        backbone = untrained.fresh_copy(inputs.encoder, options.seed)
        logits = keras.layers.Dense(inputs.num_classes, dtype="float32")
        self.network = keras.Model(
            backbone.input, logits(_last_features(backbone))
        )
        self._scratch = self.network.get_weights()
        backbone.set_weights(inputs.encoder.get_weights())
        self._pretrained = self.network.get_weights()
        self._model = _Trained(self.network)
        self._compiled: tuple[float, int] | None = None
        self._classify = tf.function(
            lambda images: self.network(images, training=False),
            reduce_retracing=True,
        )

    def train(self, source: ImageSource, pretrained: bool) -> None:
        """Trains all layers, from the run's weights or from new ones.

        Args:
            source: Images, each with a label.
            pretrained: Whether to begin with the run's weights.
        """
        options = self._options
        self.network.set_weights(
            self._pretrained if pretrained else self._scratch
        )
        steps = pipeline.steps_per_epoch(source, options.batch_size)
        updates = max(options.min_updates, options.epochs * steps)
        rate = options.learning_rate
        if not pretrained and options.scratch_learning_rate is not None:
            rate = options.scratch_learning_rate
        self._compile(rate, updates)
        labels = tf.constant(source.labels())
        dataset = pipeline.training_dataset(
            source,
            self._augmentation,
            options.batch_size,
            math.ceil(updates / steps),
            options.seed,
        ).map(lambda images, ids: (images, tf.gather(labels, ids)))
        self._model.fit(
            dataset, steps_per_epoch=updates, shuffle=False, verbose=0
        )

    def accuracies(self, dataset: tf.data.Dataset) -> dict[str, float]:
        """Accuracy on (images, instance_ids, labels): `{"top1", "top5"}`."""
        logits, labels = [], []
        for images, _, batch_labels in dataset:
            is_labelled = batch_labels.numpy() >= 0
            logits.append(self._classify(images).numpy()[is_labelled])
            labels.append(batch_labels.numpy()[is_labelled])
        return top_accuracies(np.concatenate(logits), np.concatenate(labels))

    def _compile(self, rate, updates):
        if self._compiled == (rate, updates):
            for variable in self._model.optimizer.variables:
                variable.assign(keras.ops.zeros_like(variable))
            return
        self._compiled = rate, updates
        options = self._options
        self._model.compile(
            optimizer=build_optimizer(
                options.optimizer,
                learning_rate=rate,
                steps_per_epoch=updates / options.epochs,
                epochs=options.epochs,
                schedule=options.schedule,
                schedule_epochs=options.schedule_epochs,
                weight_decay=options.weight_decay,
            ),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )


def _last_features(encoder):
    """What goes into the projection, or the output of other encoders."""
    for layer in encoder.layers:
        if layer.name == "projection":
            return layer.input
    return encoder.output


def _augmentation(inputs, options):
    """Crops and mirrors as the run does; colours stay as they are."""
    config = inputs.config
    area = options.min_crop_area
    if area is None:
        area = config.augmentation.min_crop_area
    return Augmentation(
        image_size=config.data.train_image_size or inputs.image_size,
        crop_area=(area, 1.0),
        brightness=0.0,
        contrast=0.0,
        saturation=0.0,
        hue=0.0,
        grayscale_probability=0.0,
        flip=config.augmentation.flip,
    )


class _Trained(keras.Model):
    """Trains a network through TensorFlow's fused batch norm."""

    def __init__(self, network: keras.Model):
        super().__init__(name="fine_tuning")
        self.network = network
        self._train_network = training_call(network)

    def call(self, images, training=False):
        if training:
            return self._train_network(images)
        return self.network(images, training=False)
