"""The paper's numbers, with the network, data and source of each.

Wu, Xiong, Yu, Lin: Unsupervised Feature Learning via Non-Parametric
Instance-level Discrimination, CVPR 2018, arXiv 1805.01978.

A number is shown next to a measurement only if the network and the data are
those of the paper. The CIFAR-10 table was checked against the paper. The 41.0
of a ResNet-18 is also given in the README of the authors' code. All others
were written down from memory, without the paper at hand, and are marked as
such: check them before you quote them. The paper's detectors (Fast and Faster
R-CNN) are not the one that is measured here, so detection has no number.
"""

from typing import Any, NamedTuple

from tf_instdisc.config import DataConfig, RunConfig
from tf_instdisc.config.encoder import default_stem


class PaperNumber(NamedTuple):
    """A number of the paper.

    Attributes:
        value: A fraction in [0, 1]; None if the paper has no such number.
        setting: The network and data, and where the number was taken from.
    """

    value: float | None = None
    setting: str = ""


FROM_MEMORY = "from memory, not compared with the paper"

_NONE = PaperNumber()
_LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "knn")

# Linear SVM and kNN, by objective and number of negatives.
_CIFAR10 = {
    ("parametric", None): (60.3, 63.0),
    ("softmax", None): (75.4, 80.8),
    ("nce", 1): (44.3, 42.5),
    ("nce", 10): (60.2, 63.4),
    ("nce", 512): (64.3, 78.4),
    ("nce", 4096): (70.2, 80.4),
}

# Linear classifiers on conv1 .. conv5, and kNN.
_IMAGENET = {
    "alexnet": (16.8, 26.5, 31.8, 34.1, 35.6, 31.3),
    "vgg16": (16.5, 21.4, 27.6, 35.1, 39.2, 33.9),
    "resnet18": (16.0, 19.9, 29.8, 39.0, 44.5, 41.0),
    "resnet50": (15.3, 18.8, 24.9, 40.6, 54.0, 46.5),
}
_PLACES = {
    "alexnet": (18.8, 24.3, 31.9, 34.5, 33.6, 30.1),
    "vgg16": (17.6, 23.1, 29.5, 33.8, 36.3, 32.8),
    "resnet18": (17.8, 23.0, 30.1, 37.0, 38.1, 38.6),
    "resnet50": (18.1, 22.3, 29.7, 42.1, 45.5, 41.6),
}

# From Misra and van der Maaten 2020 (arXiv 1912.01991); the paper itself has
# only a curve.
_SEMI_SUPERVISED_TOP5 = {0.01: 39.2, 0.1: 77.4}

# kNN accuracy, as a fraction, of a ResNet-18 on ImageNet, by embedding size
# and by the fraction of the training images.
EMBEDDING_SIZE_KNN = {32: 0.340, 64: 0.388, 128: 0.410, 256: 0.401}
TRAINING_FRACTION_KNN = {
    0.001: 0.039,
    0.01: 0.107,
    0.1: 0.231,
    0.3: 0.317,
    1: 0.410,
}

# Settings that a run must have been trained with.
_OF_PAPER: dict[str, Any] = {
    "init_encoder": None,
    "width": 64,
    "embedding_dim": 128,
    "split": "train",
    "images": None,
}
_ON_CIFAR10 = {
    **_OF_PAPER,
    "dataset": "cifar10",
    "backbone": "resnet18",
    "stem": "cifar",
    "image_size": 32,
}
_ON_IMAGENET = {
    **_OF_PAPER,
    "dataset": "imagenet2012",
    "stem": "imagenet",
    "image_size": 224,
    "objective": "nce",
    "num_negatives": 4096,
}


def cifar10(
    objective: str, num_negatives: int | None = None
) -> tuple[float | None, float | None]:
    """Returns the top-1 of the linear SVM and kNN on CIFAR-10 (ResNet-18).

    Returns:
        Fractions; None if the paper has no such row.
    """
    if objective != "nce":
        num_negatives = None
    svm, knn = _CIFAR10.get((objective, num_negatives), (None, None))
    return _fraction(svm), _fraction(knn)


def imagenet(encoder: str, layer: str) -> float | None:
    """Returns the ImageNet top-1 of a layer's classifier or `"knn"`."""
    row = dict(zip(_LAYERS, _IMAGENET.get(encoder, ()), strict=False))
    return _fraction(row.get(layer))


def semi_supervised(fraction: float) -> float | None:
    """Returns the ImageNet top-5 of a ResNet-50 for a label fraction."""
    return _fraction(_SEMI_SUPERVISED_TOP5.get(fraction))


def beside(
    protocol: str,
    name: str | float,
    trained: RunConfig,
    measured: RunConfig,
) -> PaperNumber:
    """Returns the paper's number for a measurement in the same setting.

    Args:
        protocol: `"knn"`, `"svm"`, `"linear"`, `"transfer"` or
            `"semi_supervised"`.
        name: `"knn"` or a layer; for `"svm"`, `"embedding"`; for
            `"semi_supervised"`, the fraction of the labels.
        trained: The run's settings.
        measured: The same settings, with the overrides of the measurement.

    Returns:
        The number; its value is None if the network or the data differ.
    """
    encoder = trained.encoder.backbone
    data = _data(measured.data)
    is_own = data == _data(trained.data)
    if _has(trained, _ON_CIFAR10) and is_own and data[2] == "test":
        objective = trained.method.objective
        negatives = trained.method.num_negatives
        svm, knn = cifar10(objective, negatives)
        numbers = {("svm", "embedding"): svm, ("knn", "knn"): knn}
        value = numbers.get((protocol, str(name)))
        detail = f", {negatives} negatives" if objective == "nce" else ""
        setting = f"CIFAR-10, {encoder}, {objective}{detail}"
    elif not _has(trained, _ON_IMAGENET):
        return _NONE
    elif protocol == "transfer":
        row = dict(zip(_LAYERS, _PLACES.get(encoder, ()), strict=False))
        is_places = data[0].startswith("places205")
        value = _fraction(row.get(str(name))) if is_places else None
        setting = f"ImageNet to Places, {encoder}; {FROM_MEMORY}"
    elif not is_own or data[2] != "validation":
        return _NONE
    elif protocol == "semi_supervised":
        is_resnet50 = encoder == "resnet50"
        value = semi_supervised(float(name)) if is_resnet50 else None
        setting = f"ImageNet, {encoder}; arXiv 1912.01991, {FROM_MEMORY}"
    else:
        value = None
        if protocol in ("knn", "linear"):
            value = imagenet(encoder, str(name))
        setting = f"ImageNet, {encoder}; {FROM_MEMORY}"
        if (encoder, name) == ("resnet18", "knn"):
            setting = f"ImageNet, {encoder}; also in the authors' README"
    return _NONE if value is None else PaperNumber(value, setting)


def _fraction(percent: float | None) -> float | None:
    return None if percent is None else percent / 100


def _data(data: DataConfig) -> tuple[str, str, str]:
    """Returns the name of a TFDS data set, and its splits."""
    name = (data.dataset or "").partition(":")[0].partition("/")[0]
    test_split = data.test_split
    if test_split is None:
        test_split = "validation" if name == "imagenet2012" else "test"
    return name, data.split, test_split


def _has(config: RunConfig, wanted: dict[str, Any]) -> bool:
    values = {
        **vars(config.data),
        **vars(config.encoder),
        **vars(config.method),
        "dataset": _data(config.data)[0],
        "stem": config.encoder.stem or default_stem(config.data.image_size),
    }
    return all(values[name] == value for name, value in wanted.items())
