"""The paper's numbers are shown only for its own data and network."""

import pytest

from tests.test_resume import ROOT
from tf_instdisc.config import DataConfig, RunConfig
from tf_instdisc.config.run import from_flagfile
from tf_instdisc.evaluation import paper


def recipe(name, **changes):
    """Settings of a recipe, with others in their place."""
    text = (ROOT / "flags" / f"{name}.flags").read_text()
    if "images" in changes:
        return RunConfig(data=DataConfig(**changes))
    return from_flagfile(text, *(f"--{n}={v}" for n, v in changes.items()))


@pytest.mark.parametrize(
    ("name", "protocol", "what", "value"),
    [
        ("cifar10", "knn", "knn", 0.808),
        ("cifar10", "svm", "embedding", 0.754),
        ("cifar10_nce", "knn", "knn", 0.804),
        ("imagenet_resnet18", "knn", "knn", 0.410),
        ("imagenet_resnet18", "linear", "conv5", 0.445),
        ("imagenet_resnet50", "linear", "conv1", 0.153),
        ("imagenet_resnet50", "semi_supervised", 0.01, 0.392),
        ("imagenet_alexnet", "knn", "knn", 0.313),
        ("imagenet_vgg16", "linear", "conv4", 0.351),
    ],
)
def test_recipes_of_the_paper_have_its_numbers(name, protocol, what, value):
    flags = recipe(name)
    number = paper.paper_value(protocol, what, flags, flags)
    assert number.value == pytest.approx(value)
    is_compared = name.startswith("cifar10") or (
        name == "imagenet_resnet18" and what == "knn"
    )
    assert (paper.FROM_MEMORY in number.setting) != is_compared


@pytest.mark.parametrize(
    ("name", "protocol", "what", "changes"),
    [
        ("cifar10", "knn", "knn", {"width": "16"}),
        ("cifar10", "knn", "knn", {"encoder": "resnet50"}),
        ("cifar10", "knn", "knn", {"split": "train[:10000]"}),
        ("cifar10", "knn", "knn", {"test_split": "train"}),
        ("cifar10", "knn", "knn", {"dataset": "cifar100"}),
        ("cifar10", "knn", "knn", {"dataset": "cifar10_corrupted/fog"}),
        ("cifar10", "knn", "knn", {"embedding_dim": "64"}),
        ("cifar10", "knn", "knn", {"stem": "imagenet"}),
        ("cifar10", "knn", "knn", {"objective": "info_nce"}),
        ("cifar10", "knn", "knn", {"images": "folder"}),
        ("cifar10", "linear", "conv5", {}),
        ("cifar10_nce", "knn", "knn", {"num_negatives": "100"}),
        ("cifar10_small", "knn", "knn", {}),
        ("digits", "knn", "knn", {}),
        ("photos", "knn", "knn", {}),
        ("imagenet_resnet18", "knn", "knn", {"dataset": "imagenette"}),
        ("imagenet_resnet18", "knn", "knn", {"image_size": "128"}),
        ("imagenet_resnet18", "linear", "embedding", {}),
        ("imagenet_resnet18", "semi_supervised", 0.01, {}),
        ("imagenet_resnet50", "semi_supervised", 0.5, {}),
        ("imagenet_resnet50", "svm", "embedding", {}),
    ],
)
def test_others_have_none(name, protocol, what, changes):
    flags = recipe(name, **changes)
    assert paper.paper_value(protocol, what, flags, flags).value is None


def test_data_other_than_the_runs_has_none():
    trained = recipe("cifar10")
    other = recipe("cifar10", dataset="svhn_cropped")
    assert paper.paper_value("knn", "knn", trained, other) == (None, "")
    trained = recipe("imagenet_resnet50")
    elsewhere = RunConfig(data=DataConfig(dataset="places205"))
    number = paper.paper_value("knn", "knn", trained, elsewhere)
    assert number.value == pytest.approx(0.416)
    other = RunConfig(data=DataConfig(dataset="places365_small"))
    assert paper.paper_value("knn", "knn", trained, other).value is None
    assert paper.paper_value("svm", "embedding", trained, elsewhere) == (
        None,
        "",
    )
