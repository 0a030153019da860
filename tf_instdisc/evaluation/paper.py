"""The paper's numbers, with network and data of each.

Wu, Xiong, Yu, Lin: Unsupervised Feature Learning via Non-Parametric
Instance-level Discrimination, CVPR 2018, arXiv 1805.01978. Only the CIFAR-10
table was checked against the paper. All others were written down from memory
and are marked "recalled": check them before you quote them.
"""

from collections.abc import Mapping
from typing import NamedTuple


class PaperNumber(NamedTuple):
    """A number of the paper.

    Attributes:
        value: A share in [0, 1]; None where the paper has no such number.
        setting: Network and data.
    """

    value: float | None = None
    setting: str = ""


_NONE = PaperNumber()
_LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "knn")

# Linear SVM, kNN; by objective and number of negatives.
_CIFAR10 = {
    ("parametric", None): (60.3, 63.0),
    ("softmax", None): (75.4, 80.8),
    ("nce", 1): (44.3, 42.5),
    ("nce", 10): (60.2, 63.4),
    ("nce", 512): (64.3, 78.4),
    ("nce", 4096): (70.2, 80.4),
}

# Linear classifiers on conv1 .. conv5, kNN.
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

# As Misra, van der Maaten 2020 (arXiv 1912.01991) give it; a curve in the
# paper, which has no table of it.
_SEMI_SUPERVISED_TOP5 = {0.01: 39.2, 0.1: 77.4}

# kNN of a ResNet-18 on ImageNet, by embedding size and by the share of the
# training images; as shares.
EMBEDDING_SIZE_KNN = {32: 0.340, 64: 0.388, 128: 0.410, 256: 0.401}
TRAINING_SHARE_KNN = {
    0.001: 0.039,
    0.01: 0.107,
    0.1: 0.231,
    0.3: 0.317,
    1: 0.410,
}

_DETECTION = {
    "alexnet": (0.481, "Fast R-CNN, AlexNet"),
    "vgg16": (0.605, "Fast R-CNN, VGG16"),
    "resnet50": (0.654, "Faster R-CNN, ResNet-50"),
}


def knn(flags: Mapping[str, str]) -> PaperNumber:
    """kNN top-1 with 200 neighbours: CIFAR-10 by objective, else ImageNet.

    Args:
        flags: The run's, as `RunDirectory.read_flags` gives them.
    """
    if _is_cifar10(flags):
        return _cifar10(flags, 1)
    return _layer(_IMAGENET, "ImageNet", flags, "knn")


def svm(flags: Mapping[str, str]) -> PaperNumber:
    """Top-1 of a linear SVM: CIFAR-10, by objective."""
    return _cifar10(flags, 0) if _is_cifar10(flags) else _NONE


def linear(flags: Mapping[str, str], layer: str) -> PaperNumber:
    """Top-1 of a linear classifier on `conv1` .. `conv5`: ImageNet."""
    return _layer(_IMAGENET, "ImageNet", flags, layer)


def transfer(flags: Mapping[str, str], layer: str) -> PaperNumber:
    """Top-1 on Places, trained on ImageNet; `layer` may be `knn`."""
    return _layer(_PLACES, "ImageNet to Places", flags, layer)


def semi_supervised(fraction: float) -> PaperNumber:
    """Top-5 of a pre-trained network, by the share of the labels."""
    value = _SEMI_SUPERVISED_TOP5.get(fraction)
    if value is None:
        return _NONE
    return PaperNumber(value / 100, "ImageNet, resnet50 (recalled)")


def detection(flags: Mapping[str, str]) -> PaperNumber:
    """Mean average precision on VOC 2007, pre-trained; else ResNet-50's."""
    backbone = flags.get("encoder", "")
    value, setting = _DETECTION.get(backbone, _DETECTION["resnet50"])
    return PaperNumber(value, f"VOC 2007, {setting}")


def _is_cifar10(flags):
    return flags.get("dataset", "").startswith("cifar10")


def _cifar10(flags, column):
    objective = flags.get("objective", "softmax")
    num_negatives = None
    if objective == "nce":
        num_negatives = int(flags.get("num_negatives", 4096))
    row = _CIFAR10.get((objective, num_negatives))
    if row is None:
        return _NONE
    detail = objective
    if num_negatives is not None:
        detail += f", {num_negatives} negatives"
    setting = f"CIFAR-10, resnet18, {detail}"
    return PaperNumber(row[column] / 100, setting)


def _layer(table, data, flags, layer):
    backbone = flags.get("encoder", "resnet18")
    if backbone not in table or layer not in _LAYERS:
        return _NONE
    value = table[backbone][_LAYERS.index(layer)] / 100
    return PaperNumber(value, f"{data}, {backbone} (recalled)")
