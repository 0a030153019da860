"""A linear SVM on one layer, with a cross-validated cost."""

import dataclasses
from typing import TYPE_CHECKING, Any

from tf_instdisc import progress
from tf_instdisc.config.encoder import LAYERS
from tf_instdisc.config.fields import Settings, setting
from tf_instdisc.errors import UsageError
from tf_instdisc.evaluation.protocol import (
    Measurement,
    Protocol,
    num_features_setting,
    seed_setting,
)

if TYPE_CHECKING:
    import numpy as np

    from tf_instdisc.evaluation.features import Layer
    from tf_instdisc.evaluation.inputs import EvaluationInputs

_MOST_FEATURES_OF_NEWTON = 1024


@dataclasses.dataclass(frozen=True)
class SVMOptions(Settings):
    """SVM

    ```python
    run = tf_instdisc.Run("runs/photos")
    run.evaluate(svm=tf_instdisc.SVMOptions(layer="conv5", costs=(0.01, 0.1)))
    ```
    """

    layer: str = setting(
        "embedding",
        "Layer to classify.",
        choices=LAYERS,
        flag="svm_layer",
    )
    costs: tuple[float, ...] = setting(
        (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
        "Costs of a misclassification on standardized features, from which "
        "cross-validation chooses.",
        least=0,
        excludes_least=True,
        is_filled=True,
        flag="svm_costs",
    )
    folds: int = setting(
        3, "Number of cross-validation folds.", least=2, flag="svm_folds"
    )
    num_features: int = num_features_setting()
    seed: int = seed_setting()


class SVM(Protocol):
    """Top-1 and top-5 accuracy of a linear SVM.

    The layer's features of all training images are held in memory as float64.
    """

    name = "svm"
    options_kind = SVMOptions
    options: SVMOptions

    def check(self, inputs: "EvaluationInputs") -> None:
        import numpy as np

        from tf_instdisc.evaluation import features

        features.require_layers(
            inputs.encoder, [self.options.layer], "layer", "svm_layer"
        )
        inputs.activations.announce([self._layer()])
        smallest = np.unique(inputs.labels, return_counts=True)[1].min()
        if smallest < self.options.folds:
            raise UsageError(
                "Cross-validation needs an image of each class in each fold. "
                f"Received: folds={self.options.folds}, {smallest} images of "
                "a class. Lower --svm_folds."
            )

    def measure(self, inputs: "EvaluationInputs") -> list[Measurement]:
        options = self.options
        train, test = inputs.activations.of(self._layer())
        search = train_svm(train.embeddings, train.labels, options)
        scores = search.decision_function(test.embeddings.astype("float64"))
        cost = search.best_params_["svm__C"]
        print(f"SVM on {options.layer}: cost {cost:g} of {options.costs}")
        values = _accuracies(scores, search.classes_, test.labels)
        return self.accuracies(
            inputs, f"SVM, {options.layer}", values, top1=options.layer
        )

    def _layer(self) -> "Layer":
        from tf_instdisc.evaluation import features

        return features.layer(self.options.layer, self.options.num_features)


def train_svm(
    values: "np.ndarray", labels: "np.ndarray", options: SVMOptions
) -> Any:
    """Fits linear SVMs to standardized features with the best of the costs.

    Args:
        values: float `[size, num_features]`.
        labels: int `[size]`.
        options: `layer` is ignored.

    Returns:
        The `GridSearchCV`, fitted to all rows with the chosen cost.
    """
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    from tf_instdisc.evaluation.newton_svm import NewtonSVC

    if values.shape[1] <= _MOST_FEATURES_OF_NEWTON:
        svm = NewtonSVC()
    else:
        svm = LinearSVC(random_state=options.seed, max_iter=2000)
    classifier = Pipeline([("scaler", StandardScaler()), ("svm", svm)])
    folds = StratifiedKFold(
        options.folds, shuffle=True, random_state=options.seed
    )
    num_fits = len(options.costs) * options.folds
    with progress.tracking("fitting SVMs", num_fits + 1) as advance:

        def score(classifier: Any, rows: Any, labels: Any) -> float:
            advance(1)
            return classifier.score(rows, labels)

        search = GridSearchCV(
            classifier,
            {"svm__C": list(options.costs)},
            cv=folds,
            scoring=score,
        )
        return search.fit(values.astype("float64"), labels)


def _accuracies(
    scores: "np.ndarray", classes: "np.ndarray", labels: "np.ndarray"
) -> dict[str, float]:
    import numpy as np

    from tf_instdisc.evaluation.linear_classifier import top_accuracies

    if scores.ndim == 1:  # scikit-learn scores only the second of two.
        scores = np.stack([-scores, scores], axis=1)
    all_scores = np.full([len(scores), max(*classes, *labels) + 1], -np.inf)
    all_scores[:, classes] = scores
    return top_accuracies(all_scores, labels)
