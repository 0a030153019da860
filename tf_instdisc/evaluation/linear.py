"""Linear classifiers on frozen layers."""

import dataclasses
import pathlib
from collections.abc import Sequence

import keras
import numpy as np

from tf_instdisc.errors import UsageError
from tf_instdisc.evaluation import features, paper, untrained
from tf_instdisc.evaluation.inputs import EvaluationInputs
from tf_instdisc.evaluation.measurement import Measurement
from tf_instdisc.training.optimizer import build_optimizer

_CHUNK = 1024
_EPSILON = 1e-5  # of a batch norm


@dataclasses.dataclass(frozen=True)
class LinearOptions:
    """How the classifiers are trained.

    The paper names split-brain autoencoders (arXiv 1611.09842) as its
    protocol and no rates, and the authors' code has no linear classifiers.
    The defaults are those of DeepCluster's `eval_linear.py`, which pools five
    layers to 9,216 to 9,600 numbers: SGD 0.01, momentum 0.9, weight decay
    1e-4, batch 256, 90 epochs; with a tenth of the rate after 30 and 60, as in
    OpenSelfSup's `r50_multihead.py`. CMC's `eval_moco_ins.py`
    measures it on one layer with 0.1, a fifth after 30, 40 and 50 of 60
    epochs, and no weight decay.

    Attributes:
        layers: Of `conv1` .. `conv5` and `embedding`; None for all there are.
        num_features: About how many numbers a layer is pooled to.
        epochs: Epochs.
        batch_size: Images in a batch.
        learning_rate: The first learning rate.
        schedule_epochs: Epochs after which it falls by ten.
        momentum: Of SGD, in [0, 1).
        weight_decay: As PyTorch's SGD has it; the bias is left out.
        baselines: Whether the untrained network is measured too.
        keep_features: Whether activations stay in the run's directory.
        seed: Seeds weights and order.

    Raises:
        ValueError: If one of them is out of range.
    """

    layers: tuple[str, ...] | None = None
    num_features: int = 9000
    epochs: int = 90
    batch_size: int = 256
    learning_rate: float = 0.01
    schedule_epochs: tuple[int, ...] = (30, 60)
    momentum: float = 0.9
    weight_decay: float = 1e-4
    baselines: bool = False
    keep_features: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_features", "epochs", "batch_size"):
            value = getattr(self, name)
            if value < 1:
                raise UsageError(
                    f"`{name}` must be at least 1. Received: {name}={value}"
                )


def check(inputs: EvaluationInputs, options: LinearOptions) -> None:
    """Raises ValueError if the encoder has not the layers.

    Args:
        inputs: The run and its images.
        options: Which layers.
    """
    if options.layers is not None:
        features.require_layers(inputs.encoder, options.layers)


def measure(
    inputs: EvaluationInputs,
    options: LinearOptions | None = None,
    protocol: str = "linear",
) -> list[Measurement]:
    """Trains a classifier on each layer and measures the test images.

    Args:
        inputs: The run and its images.
        options: Layers and training.
        protocol: Name under which the results stand; `"transfer"` compares
            them with the paper's numbers on Places.

    Returns:
        Top-1 and top-5 of each layer.

    Raises:
        ValueError: If the encoder has not the layers.
        StorageError: If the disk has no room for the activations.
    """
    options = options or LinearOptions()
    check(inputs, options)
    names = options.layers or features.available_layers(inputs.encoder)
    encoders = {"": inputs.encoder}
    if options.baselines:
        encoders[", untrained"] = untrained.encoder_like(
            inputs.encoder, inputs.source, options.seed
        )
    trained = inputs.run.read_config()
    found = []
    for suffix, encoder in encoders.items():
        role = "untrained" if suffix else "trained"
        with features.kept_in(
            inputs.run.features / role, options.keep_features
        ) as directory:
            train, test = extract_both(
                encoder, inputs, names, directory, options.num_features
            )
            for name in names:
                values = accuracy(train, test, name, options)
                print(
                    f"linear classifier on {name}{suffix}: top-1 "
                    f"{100 * values['top1']:.1f}",
                    flush=True,
                )
                number = paper.PaperNumber()
                if not suffix:
                    number = paper.beside(
                        protocol, name, trained, inputs.config
                    )
                title = f"linear, {name}{suffix}"
                found += [
                    Measurement(
                        protocol, title, "top1", values["top1"], *number
                    ),
                    Measurement(protocol, title, "top5", values["top5"]),
                ]
    return found


def extract_both(
    encoder: keras.Model,
    inputs: EvaluationInputs,
    names: Sequence[str],
    directory: pathlib.Path,
    num_features: int,
) -> tuple[features.Features, features.Features]:
    """Activations of the training and of the test images."""
    train, test = (
        features.extract(
            encoder,
            source,
            names,
            directory,
            num_features,
            inputs.crop_fraction,
            digest,
        )
        for source, digest in (
            (inputs.source, inputs.source_digest),
            (inputs.test_source, inputs.test_digest),
        )
    )
    return train, test


def accuracy(
    train: features.Features,
    test: features.Features,
    layer: str,
    options: LinearOptions,
) -> dict[str, float]:
    """Accuracy of a linear classifier on one layer, `{"top1", "top5"}`."""
    num_classes = 1 + int(max(train.labels.max(), test.labels.max()))
    classifier = train_classifier(
        train.values[layer], train.labels, num_classes, options
    )
    logits = np.concatenate(
        [
            classifier(
                test.values[layer][i : i + _CHUNK].astype(np.float32)
            ).numpy()
            for i in range(0, len(test.labels), _CHUNK)
        ]
    )
    return top_accuracies(logits, test.labels)


def train_classifier(
    values: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    options: LinearOptions,
) -> keras.Model:
    """Trains a softmax classifier on standardised features, by SGD.

    The features go through a batch norm without scale and offset whose
    statistics are those of all training images. Memory holds a batch, so
    that the features may be mapped from the disk.

    Args:
        values: float `[size, num_features]`.
        labels: int `[size]`, below `num_classes`.
        num_classes: Number of classes.
        options: How it is trained; its layers play no part.

    Returns:
        A model from `[batch, num_features]` to logits
        `[batch, num_classes]`.
    """
    mean, variance = _moments(values)
    dense = keras.layers.Dense(
        num_classes,
        kernel_initializer=keras.initializers.RandomNormal(
            stddev=0.01, seed=options.seed
        ),
    )
    model = keras.Sequential(
        [
            keras.Input([values.shape[1]]),
            keras.layers.Normalization(mean=mean, variance=variance + _EPSILON),
            dense,
        ]
    )
    rows = _Rows(values, labels, options.batch_size, options.seed)
    optimizer = build_optimizer(
        learning_rate=options.learning_rate,
        steps_per_epoch=len(rows),
        epochs=options.epochs,
        schedule="steps",
        schedule_epochs=options.schedule_epochs,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
    )
    optimizer.exclude_from_weight_decay(var_list=[dense.bias])
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(rows, epochs=options.epochs, shuffle=False, verbose=0)
    return model


def top_accuracies(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Shares of images whose label is first, and among the first five.

    Args:
        logits: float `[size, num_classes]`; of equal ones the lower label
            comes first.
        labels: int `[size]`.
    """
    ranking = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    hits = ranking == labels[:, None]
    return {
        "top1": float(hits[:, 0].mean()),
        "top5": float(hits.any(axis=1).mean()),
    }


def _moments(values):
    """Mean and variance of each column, float32."""
    total = np.zeros(values.shape[1])
    squares = np.zeros(values.shape[1])
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK].astype(np.float64)
        total += chunk.sum(axis=0)
        squares += np.square(chunk).sum(axis=0)
    mean = total / len(values)
    variance = np.maximum(squares / len(values) - np.square(mean), 0)
    return mean.astype(np.float32), variance.astype(np.float32)


class _Rows(keras.utils.PyDataset):
    """Batches of rows in a new order in each epoch."""

    def __init__(self, values, labels, batch_size, seed):
        super().__init__()
        self.values = values
        self.labels = labels
        self.batch_size = batch_size
        self.rng = np.random.default_rng(seed)
        self.order = self.rng.permutation(len(labels))

    def __len__(self):
        return -(-len(self.labels) // self.batch_size)

    def __getitem__(self, index):
        start = index * self.batch_size
        rows = np.sort(self.order[start : start + self.batch_size])
        return self.values[rows].astype(np.float32), self.labels[rows]

    def on_epoch_end(self):
        self.order = self.rng.permutation(len(self.labels))
