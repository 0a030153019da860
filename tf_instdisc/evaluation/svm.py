"""A linear SVM on one layer, its cost picked by cross-validation."""

import dataclasses

import numpy as np
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from tf_instdisc.errors import UsageError
from tf_instdisc.evaluation import features, paper
from tf_instdisc.evaluation.inputs import EvaluationInputs
from tf_instdisc.evaluation.linear import extract_both, top_accuracies
from tf_instdisc.evaluation.measurement import Measurement


@dataclasses.dataclass(frozen=True)
class SVMOptions:
    """Layer and costs.

    Attributes:
        layer: One of `conv1` .. `conv5` and `embedding`.
        costs: Of misclassification, each above 0, on standardised features.
        folds: Parts of the cross-validation, at least 2.
        num_features: About how many numbers the layer is pooled to.
        keep_features: Whether activations stay in the run's directory.
        seed: Seeds folds and solver.

    Raises:
        ValueError: If one of them is out of range.
    """

    layer: str = "embedding"
    costs: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
    folds: int = 3
    num_features: int = 9000
    keep_features: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.costs or min(self.costs) <= 0:
            raise UsageError(
                f"`costs` must be above 0. Received: costs={self.costs}"
            )
        if self.folds < 2:
            raise UsageError(
                f"`folds` must be at least 2. Received: folds={self.folds}"
            )


def check(inputs: EvaluationInputs, options: SVMOptions) -> None:
    """Raises ValueError if a class is too small, or the layer is not there.

    Args:
        inputs: The run and its images.
        options: Layer and folds.
    """
    features.require_layers(inputs.encoder, [options.layer])
    smallest = np.unique(inputs.labels, return_counts=True)[1].min()
    if smallest < options.folds:
        raise UsageError(
            "Cross-validation needs an image of each class in each fold. "
            f"Received: folds={options.folds}, {smallest} images of a class. "
            "Lower --svm_folds."
        )


def measure(
    inputs: EvaluationInputs, options: SVMOptions | None = None
) -> list[Measurement]:
    """Measures top-1 and top-5 of the test images.

    The layer's features of all training images go into memory, in float64.

    Args:
        inputs: The run and its images.
        options: Layer and costs.

    Raises:
        ValueError: As `check` does.
    """
    options = options or SVMOptions()
    check(inputs, options)
    with features.kept_in(
        inputs.run.features / "trained", options.keep_features
    ) as directory:
        train, test = extract_both(
            inputs.encoder,
            inputs,
            [options.layer],
            directory,
            options.num_features,
        )
        search = train_svm(train.values[options.layer], train.labels, options)
        scores = search.decision_function(
            test.values[options.layer].astype(np.float64)
        )
        cost = search.best_params_["linearsvc__C"]
        print(f"SVM on {options.layer}: cost {cost:g} of {options.costs}")
        values = _accuracies(scores, search.classes_, test.labels)
    name = f"SVM, {options.layer}"
    number = paper.PaperNumber()
    if options.layer == "embedding":
        number = paper.beside(
            "svm", "embedding", inputs.run.read_config(), inputs.config
        )
    return [
        Measurement("svm", name, "top1", values["top1"], *number),
        Measurement("svm", name, "top5", values["top5"]),
    ]


def train_svm(
    values: np.ndarray, labels: np.ndarray, options: SVMOptions
) -> GridSearchCV:
    """Fits scikit-learn's LinearSVC at the best of the costs.

    Args:
        values: float `[size, num_features]`.
        labels: int `[size]`.
        options: Costs and folds.

    Returns:
        The search, fit to all rows with the cost that it picked.
    """
    classifier = make_pipeline(
        StandardScaler(),
        LinearSVC(random_state=options.seed, max_iter=2000),
    )
    folds = StratifiedKFold(
        options.folds, shuffle=True, random_state=options.seed
    )
    search = GridSearchCV(
        classifier, {"linearsvc__C": list(options.costs)}, cv=folds
    )
    return search.fit(values.astype(np.float64), labels)


def _accuracies(scores, classes, labels):
    if scores.ndim == 1:  # Of two classes scikit-learn scores the second.
        scores = np.stack([-scores, scores], axis=1)
    all_scores = np.full([len(scores), max(*classes, *labels) + 1], -np.inf)
    all_scores[:, classes] = scores
    return top_accuracies(all_scores, labels)
