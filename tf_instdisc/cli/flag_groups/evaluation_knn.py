"""kNN"""

from absl import flags

from tf_instdisc import choices

NUM_NEIGHBORS = flags.DEFINE_integer(
    "num_neighbors",
    200,
    "Neighbours that vote; the nearest alone is measured too.",
    lower_bound=1,
)
TEMPERATURE = flags.DEFINE_float(
    "temperature",
    None,
    "Temperature of the votes; the run's by default.",
    lower_bound=1e-3,
)
KNN_ROWS = flags.DEFINE_list(
    "knn_rows",
    ["encoded"],
    "Which rows vote: encoded, those that the trained encoder gives for the "
    "whole images; training, those that training has left in its newest "
    "checkpoint; or both.",
)


@flags.validator("knn_rows", f"Give some of {', '.join(choices.KNN_ROWS)}.")
def _known(rows):
    return bool(rows) and set(rows) <= set(choices.KNN_ROWS)
