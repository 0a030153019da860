"""SVM"""

from absl import flags

from tf_instdisc import choices

SVM_LAYER = flags.DEFINE_enum(
    "svm_layer", "embedding", choices.LAYERS, "Layer that is classified."
)
SVM_COSTS = flags.DEFINE_list(
    "svm_costs",
    ["0.0001", "0.001", "0.01", "0.1"],
    "Costs among which cross-validation picks.",
)
SVM_FOLDS = flags.DEFINE_integer(
    "svm_folds", 3, "Parts of the cross-validation.", lower_bound=2
)


@flags.validator("svm_costs", "must be numbers above 0: 0.001,0.01")
def _above_zero(values):
    try:
        return bool(values) and all(float(value) > 0 for value in values)
    except ValueError:
        return False
