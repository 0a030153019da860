"""The paper's tables: their runs, measurements and numbers.

A row is a run of a recipe with some flags changed. Rows of different tables
may use the same run. The paper's numbers are those of arXiv 1805.01978 unless
a table says otherwise.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from tf_instdisc.config.fields import Settings
from tf_instdisc.evaluation import paper
from tf_instdisc.evaluation.fine_tuning_protocol import FineTuneOptions
from tf_instdisc.evaluation.knn_protocol import KNNOptions
from tf_instdisc.evaluation.linear_protocol import LinearOptions
from tf_instdisc.evaluation.svm_protocol import SVMOptions


@dataclasses.dataclass(frozen=True)
class Row:
    """One run of a table.

    Attributes:
        label: The text of the first column.
        run: Name of the run, which is the folder of its seeds.
        flags: Flags that the run adds to its recipe.
        fraction: Fraction of the recipe's training images, in (0, 1].
        paper: The paper's numbers by column, as fractions in [0, 1].
    """

    label: str
    run: str
    flags: tuple[str, ...] = ()
    fraction: float = 1.0
    paper: dict[str, float | None] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large the runs are.

    Attributes:
        recipes: The flagfile for each of the paper's recipes.
        fine_tuning: Options of fine-tuning that differ from the paper's.
        linear: Options of linear classifiers that differ from the paper's.
    """

    recipes: dict[str, str]
    fine_tuning: dict[str, Any] = dataclasses.field(default_factory=dict)
    linear: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Table:
    """One of the paper's tables.

    Attributes:
        title: The heading of the table.
        source: The table or figure of the paper, with its network and data.
        recipe: What the paper trained, as a key of `Scale.recipes`.
        protocols: Returns the options of each protocol, given the seed.
        rows: The runs of the table.
        facts: What is read from the runs themselves, as keys of
            `measure.FACTS`.
        axis: Label of the plot's horizontal axis; None if there is no plot.
            If it is "epoch", the plot shows the losses.
        paper: The paper's numbers by row and column, for a protocol that
            measures several rows of one run.
    """

    title: str
    source: str
    recipe: str
    protocols: Callable[[Scale, int], dict[str, Settings]]
    rows: tuple[Row, ...]
    facts: tuple[str, ...] = ()
    axis: str | None = None
    paper: dict[tuple[str, str], float | None] = dataclasses.field(
        default_factory=dict
    )


SCALES = {
    "small": Scale(
        {
            "cifar10": "cifar10_sweep.flags",
            "imagenet": "cifar10_sweep.flags",
            "imagenet_resnet50": "cifar10_small.flags",
            "networks": "cifar10_networks.flags",
        },
        fine_tuning={
            "epochs": 8,
            "min_updates": 256,
            "batch_size": 64,
            "optimizer": "adamw",
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "weight_decay": 0.05,
        },
        linear={"epochs": 30, "schedule_epochs": (10, 20)},
    ),
    "paper": Scale(
        {
            "cifar10": "cifar10.flags",
            "imagenet": "imagenet_resnet18.flags",
            "imagenet_resnet50": "imagenet_resnet50.flags",
            "networks": "imagenet_resnet18.flags",
        },
    ),
}

BASE = "base"  # The run of an unchanged recipe.
_IMAGENET = f"ResNet-18 on ImageNet; {paper.FROM_MEMORY}"


def _objectives() -> tuple[Row, ...]:
    def row(label: str, run: str, **flags: Any) -> Row:
        svm, knn = paper.cifar10(
            flags.get("objective", "softmax"),
            int(flags.get("num_negatives", 0)),
        )
        return Row(
            label,
            run,
            tuple(f"--{name}={value}" for name, value in flags.items()),
            paper={"kNN": knn, "SVM": svm},
        )

    return (
        row("parametric softmax", "parametric", objective="parametric"),
        row("exact softmax", BASE),
        *(
            row(
                f"NCE, {number} negative" + "s" * (number > 1),
                f"nce-{number}",
                objective="nce",
                num_negatives=str(number),
            )
            for number in (1, 10, 512, 4096)
        ),
    )


def _embedding_sizes() -> tuple[Row, ...]:
    return tuple(
        Row(
            str(size),
            BASE if size == 128 else f"embedding_dim-{size}",
            () if size == 128 else (f"--embedding_dim={size}",),
            paper={"kNN": knn},
        )
        for size, knn in paper.EMBEDDING_SIZE_KNN.items()
    )


def _training_fractions() -> tuple[Row, ...]:
    return tuple(
        Row(
            f"{100 * fraction:g}%",
            # Existing runs have this name.
            BASE if fraction == 1 else f"share-{fraction}",
            fraction=fraction,
            paper={"kNN": knn},
        )
        for fraction, knn in paper.TRAINING_FRACTION_KNN.items()
    )


def _proximal_weights() -> tuple[Row, ...]:
    negatives = ("--objective=nce", "--num_negatives=4096")
    return tuple(
        Row(
            f"λ = {weight}",
            f"nce-4096-proximal-{weight}" if weight else "nce-4096",
            (*negatives, f"--proximal_weight={weight}")
            if weight
            else negatives,
        )
        for weight in (0, 0.3, 1, 3)
    )


def _networks() -> tuple[Row, ...]:
    return tuple(
        Row(
            name,
            BASE if name == "resnet18" else f"network-{name}",
            () if name == "resnet18" else (f"--encoder={name}",),
            paper={
                "kNN": paper.IMAGENET.get((name, "knn")),
                "linear": paper.IMAGENET.get((name, "conv5")),
            },
        )
        for name in ("alexnet", "vgg16", "resnet18", "resnet34", "resnet50")
    )


def _knn(scale: Scale, seed: int) -> dict[str, Settings]:
    del scale, seed
    return {"knn": KNNOptions()}


def _knn_and_svm(scale: Scale, seed: int) -> dict[str, Settings]:
    return {**_knn(scale, seed), "svm": SVMOptions()}


def _knn_and_linear(scale: Scale, seed: int) -> dict[str, Settings]:
    options = LinearOptions(layers=("conv5",), seed=seed, **scale.linear)
    return {**_knn(scale, seed), "linear": options}


def _linear(scale: Scale, seed: int) -> dict[str, Settings]:
    return {"linear": LinearOptions(baselines=True, seed=seed, **scale.linear)}


def _semi_supervised(scale: Scale, seed: int) -> dict[str, Settings]:
    return {"semi_supervised": FineTuneOptions(seed=seed, **scale.fine_tuning)}


TABLES = {
    "cifar10_objectives": Table(
        "Objectives and numbers of negatives",
        "table 1: ResNet-18 on CIFAR-10",
        "cifar10",
        _knn_and_svm,
        _objectives(),
    ),
    "embedding_size": Table(
        "Embedding size",
        f"table 4: {_IMAGENET}",
        "imagenet",
        _knn,
        _embedding_sizes(),
        axis="embedding size",
    ),
    "training_size": Table(
        "Fraction of the training images",
        f"table 5: {_IMAGENET}",
        "imagenet",
        _knn,
        _training_fractions(),
        axis="fraction of the training images, in percent",
    ),
    "networks": Table(
        "Networks",
        f"tables 2 and 3: ImageNet; {paper.FROM_MEMORY}",
        "networks",
        _knn_and_linear,
        _networks(),
        facts=("parameters, millions", "images/s"),
    ),
    "proximal": Table(
        "Weight of the proximal term",
        "figure 3, which has curves and no numbers",
        "cifar10",
        _knn,
        _proximal_weights(),
        facts=("last loss", "fluctuation of the loss"),
        axis="epoch",
    ),
    "semi_supervised": Table(
        "Fine-tuning with a fraction of the labels",
        "figure 6, as arXiv 1912.01991 gives it: ResNet-50 on ImageNet; "
        + paper.FROM_MEMORY,
        "imagenet_resnet50",
        _semi_supervised,
        (Row("exact softmax", BASE),),
        axis="fraction of the labels, in percent",
        paper={
            (f"{fraction:.0%} of the labels, pre-trained", "top5"): top5
            for fraction, top5 in paper.SEMI_SUPERVISED_TOP5.items()
        },
    ),
    "layers": Table(
        "Linear classifiers on each layer",
        f"table 2: {_IMAGENET}",
        "imagenet",
        _linear,
        (Row("exact softmax", BASE),),
        paper={
            (f"linear, {layer}", "top1"): paper.IMAGENET["resnet18", layer]
            for layer in ("conv1", "conv2", "conv3", "conv4", "conv5")
        },
    ),
}
