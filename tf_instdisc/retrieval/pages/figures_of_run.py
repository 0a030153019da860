"""The map and the confusion matrix of a run."""

from typing import Any

import numpy as np

from tf_instdisc.retrieval import analysis
from tf_instdisc.retrieval.pages import charts
from tf_instdisc.runs.bank import Bank


def confusion(bank: Bank, votes: analysis.Votes, most_classes: int) -> Any:
    """Returns a figure of the confusion matrix of the neighbors' votes.

    Args:
        bank: The run's bank.
        votes: The votes.
        most_classes: Maximum number of classes; those with the most errors
            are shown.
    """
    matrix = analysis.confusion_matrix(bank, votes)
    fractions = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    shown = analysis.most_confused(matrix, most_classes)
    part = np.ix_(shown, shown)
    names = [bank.class_names[i] for i in shown]
    return charts.confusion(matrix[part], fractions[part], names)


def map_of(
    bank: Bank, positions: np.ndarray, seed: int
) -> tuple[Any, list[tuple[str, str]]]:
    """Returns a figure of the map of some rows, and its legend.

    Args:
        bank: The run's bank.
        positions: int `[count]`, the rows.
        seed: Random seed of the layout.
    """
    rows = bank.rows[positions]
    colors, groups = analysis.groups_of(
        bank, positions, charts.NUM_COLORS, seed
    )
    captions = [groups[color] for color in colors]
    if bank.class_names:
        # There may be more classes than colors.
        captions = [
            bank.class_names[label] if label >= 0 else "no label"
            for label in bank.labels[positions]
        ]
    figure = charts.embedding_map(
        analysis.map_of(rows, seed),
        colors,
        [str(name) for name in bank.names[positions]],
        captions,
        int(np.ceil(np.sqrt(len(rows)))),
    )
    return figure, charts.legend(groups)
