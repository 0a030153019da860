"""Statistics of a memory bank's rows, and warnings about its health."""

import math

import numpy as np

_CHUNK = 65_536
_COLLAPSED_COSINE = 0.95
_COLLAPSED_RANK = 2.0
_EXPLODED_GROWTH = 10.0  # Healthy epochs stay below 2.


def bank_statistics(rows: np.ndarray) -> dict[str, float]:
    """Computes statistics of a bank's rows in linear time.

    Args:
        rows: float `[num_rows, dim]`.

    Returns:
        `mean_cosine`: the mean cosine of all pairs of rows; close to 0 in a
        healthy bank, 1 if all rows are equal. `effective_rank`: exp of the
        entropy of the normalized singular values (Roy and Vetterli 2007), in
        [1, dim]; 1 if all rows lie on one line. Both are NaN if a row is not
        finite.
    """
    num_rows, dim = rows.shape
    total, gram = np.zeros(dim), np.zeros([dim, dim])
    for start in range(0, num_rows, _CHUNK):
        chunk = rows[start : start + _CHUNK].astype(np.float64)
        total += chunk.sum(axis=0)
        gram += chunk.T @ chunk
    if not np.isfinite(np.trace(gram)):
        return dict.fromkeys(("mean_cosine", "effective_rank"), math.nan)
    pairs = max(1, num_rows * (num_rows - 1))
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh(gram), 0))
    shares = singular[singular > 0] / singular.sum()
    return {
        "mean_cosine": float((total @ total - np.trace(gram)) / pairs),
        "effective_rank": float(np.exp(-(shares * np.log(shares)).sum())),
    }


def health_warnings(
    statistics: dict[str, float],
    loss: float | None = None,
    weight_growth: float | None = None,
) -> list[str]:
    """Returns what is wrong with a run, and what to do about it.

    The loss alone is not informative: with a random bank, it rises at first
    even in healthy runs.

    Args:
        statistics: The result of `bank_statistics`.
        loss: Mean loss of the epoch, if known.
        weight_growth: Norm of all weights after the epoch divided by the norm
            before it, if known.

    Returns:
        Sentences; an empty list for a healthy run.
    """
    found = []
    cosine = statistics["mean_cosine"]
    rank = statistics["effective_rank"]
    if not all(
        math.isfinite(value)
        for value in (cosine, loss, weight_growth)
        if value is not None
    ):
        return [
            "Training has diverged: the loss, weights or memory bank hold "
            "numbers that are not finite. Nothing more can be learned. Start "
            "again with a lower learning_rate, or more warmup_epochs."
        ]
    if cosine > _COLLAPSED_COSINE or rank < _COLLAPSED_RANK:
        found.append(
            "The embeddings have collapsed: images are hardly distinguished "
            f"(mean cosine of two rows {cosine:.3f}, 1 if all are equal; "
            f"effective rank {rank:.1f}). Start again with a lower "
            "learning_rate, and check that the images differ."
        )
    if weight_growth is not None and weight_growth > _EXPLODED_GROWTH:
        found.append(
            "Training diverges: the encoder's weights have grown "
            f"{weight_growth:.0f}-fold in one epoch. Start again with a lower "
            "learning_rate, or more warmup_epochs."
        )
    return found
