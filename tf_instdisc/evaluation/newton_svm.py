"""A linear SVM for many examples of few features."""

import warnings
from typing import Self

import numpy as np
import scipy.linalg
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import LabelBinarizer

_TOLERANCE = 1e-6  # Of the gradient's norm, relative to that at the start.
_MOST_STEPS = 100


class NewtonSVC(ClassifierMixin, BaseEstimator):
    """Linear SVMs, one against the rest, as scikit-learn's LinearSVC.

    Each minimizes |w|²/2 + C Σ max(0, 1 - y w·x)², where a constant feature
    holds the bias. The loss is quadratic in the examples inside the margin, so
    Newton's method needs about five steps (Keerthi and DeCoste 2005, JMLR 6).
    A step multiplies all pairs of features, so LinearSVC is the better choice
    for thousands of them.

    Args:
        C: The cost of an example inside the margin, above 0.
    """

    def __init__(self, C: float = 1.0):
        self.C = C

    def fit(self, values: np.ndarray, labels: np.ndarray) -> Self:
        """Fits one SVM for each class, or one in all for two classes.

        Args:
            values: float64 `[size, num_features]`.
            labels: `[size]`, of at least two classes.
        """
        signs = LabelBinarizer(neg_label=-1).fit(labels)
        self.classes_ = signs.classes_
        examples = _with_bias(values)
        self.weights_ = np.stack(
            [
                _minimize(examples, column, self.C)
                for column in signs.transform(labels).T.astype(float)
            ],
            axis=1,
        )
        return self

    def decision_function(self, values: np.ndarray) -> np.ndarray:
        """Returns `[size, num_classes]`, or `[size]` for two classes."""
        scores = _with_bias(values) @ self.weights_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, values: np.ndarray) -> np.ndarray:
        """Returns the class of the highest score."""
        scores = self.decision_function(values)
        best = scores > 0 if scores.ndim == 1 else scores.argmax(axis=1)
        return self.classes_[best.astype(int)]


def _with_bias(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values, np.ones([len(values), 1])], axis=1)


def _minimize(x: np.ndarray, y: np.ndarray, cost: float) -> np.ndarray:
    """Returns the w of the smallest loss, for labels y of 1 and -1."""

    def loss(w: np.ndarray, margins: np.ndarray) -> float:
        return w @ w / 2 + cost * np.square(np.maximum(1 - margins, 0)).sum()

    w, margins = np.zeros(x.shape[1]), np.zeros(len(x))
    first = None
    for _ in range(_MOST_STEPS):
        inside = margins < 1
        chosen = x[inside]
        gradient = w - 2 * cost * chosen.T @ (y[inside] * (1 - margins[inside]))
        norm = np.linalg.norm(gradient)
        first = norm if first is None else first
        if norm <= _TOLERANCE * first:
            break
        hessian = 2 * cost * chosen.T @ chosen + np.eye(len(w))
        step = scipy.linalg.solve(hessian, -gradient, assume_a="pos")
        change = y * (x @ step)
        # Far from the minimum, a whole step may be too long.
        before, slope = loss(w, margins), gradient @ step
        while loss(w + step, margins + change) > before + slope / 1e4:
            step, change, slope = step / 2, change / 2, slope / 2
        w, margins = w + step, margins + change
    else:
        warnings.warn(
            f"The SVM of cost {cost:g} has not converged.",
            ConvergenceWarning,
            stacklevel=2,
        )
    return w
