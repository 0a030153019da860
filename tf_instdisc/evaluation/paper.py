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

# All numbers are fractions. Linear SVM and kNN, by objective and number of
# negatives.
_CIFAR10 = {
    ("parametric", None): (0.603, 0.630),
    ("softmax", None): (0.754, 0.808),
    ("nce", 1): (0.443, 0.425),
    ("nce", 10): (0.602, 0.634),
    ("nce", 512): (0.643, 0.784),
    ("nce", 4096): (0.702, 0.804),
}


def _by_layer(**rows: tuple[float, ...]) -> dict[tuple[str, str], float]:
    return {
        (encoder, layer): value
        for encoder, row in rows.items()
        for layer, value in zip(_LAYERS, row, strict=True)
    }


# Top-1 of linear classifiers on conv1 .. conv5, and kNN, by network and layer.
IMAGENET = _by_layer(
    alexnet=(0.168, 0.265, 0.318, 0.341, 0.356, 0.313),
    vgg16=(0.165, 0.214, 0.276, 0.351, 0.392, 0.339),
    resnet18=(0.160, 0.199, 0.298, 0.390, 0.445, 0.410),
    resnet50=(0.153, 0.188, 0.249, 0.406, 0.540, 0.465),
)
_PLACES = _by_layer(
    alexnet=(0.188, 0.243, 0.319, 0.345, 0.336, 0.301),
    vgg16=(0.176, 0.231, 0.295, 0.338, 0.363, 0.328),
    resnet18=(0.178, 0.230, 0.301, 0.370, 0.381, 0.386),
    resnet50=(0.181, 0.223, 0.297, 0.421, 0.455, 0.416),
)

# Top-5 of a ResNet-50 on ImageNet by the fraction of the labels, from Misra and
# van der Maaten 2020 (arXiv 1912.01991); the paper itself has only a curve.
SEMI_SUPERVISED_TOP5 = {0.01: 0.392, 0.1: 0.774}

# kNN accuracy of a ResNet-18 on ImageNet, by embedding size and by the fraction
# of the training images.
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
    key = objective, num_negatives if objective == "nce" else None
    return _CIFAR10.get(key, (None, None))


def paper_value(
    protocol: str,
    name: str | float,
    trained: RunConfig,
    measured: RunConfig,
) -> PaperNumber:
    """Returns the paper's number for a measurement in the same setting.

    Args:
        protocol: `"knn"`, `"svm"`, `"linear"` or `"semi_supervised"`.
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
    elif not is_own and protocol in ("knn", "linear"):
        is_places = data[0].startswith("places205")
        value = _PLACES.get((encoder, str(name))) if is_places else None
        setting = f"ImageNet to Places, {encoder}; {FROM_MEMORY}"
    elif not is_own or data[2] != "validation":
        return _NONE
    elif protocol == "semi_supervised":
        is_resnet50 = encoder == "resnet50"
        value = SEMI_SUPERVISED_TOP5.get(float(name)) if is_resnet50 else None
        setting = f"ImageNet, {encoder}; arXiv 1912.01991, {FROM_MEMORY}"
    else:
        value = None
        if protocol in ("knn", "linear"):
            value = IMAGENET.get((encoder, str(name)))
        setting = f"ImageNet, {encoder}; {FROM_MEMORY}"
        if (encoder, name) == ("resnet18", "knn"):
            setting = f"ImageNet, {encoder}; also in the authors' README"
    return _NONE if value is None else PaperNumber(value, setting)


def _data(data: DataConfig) -> tuple[str, str, str]:
    """Returns the name of a TFDS dataset, and its splits."""
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
