"""instdisc-evaluate: the paper's evaluations of a finished run."""

from absl import flags

from tf_instdisc.cli.flag_groups import (
    detection,
    evaluation,
    evaluation_fine_tuning,
    evaluation_knn,
    evaluation_linear,
    evaluation_svm,
    evaluation_transfer,
    finished_run,
)
from tf_instdisc.cli.launch import launch
from tf_instdisc.text import shown

GROUPS = (
    finished_run,
    evaluation,
    evaluation_knn,
    evaluation_linear,
    evaluation_svm,
    evaluation_fine_tuning,
    evaluation_transfer,
    detection,
)

_SUMMARY = """
Measures a finished run as the paper does, and prints a Markdown table with the
paper's number beside each; results.json in the run's directory has them too.

  instdisc-evaluate --run_dir=runs/cifar10 --protocol=knn,linear
"""


def main() -> None:
    """Entry point of `instdisc-evaluate`."""
    launch(_evaluate, _SUMMARY, GROUPS)


def _evaluate() -> None:
    from tf_instdisc.runs import opening

    run = opening.load(finished_run.RUN_DIR.value or "")
    if not run.bank.exists():
        run.load_bank()  # Raises, before anything large is imported.

    from tf_instdisc.evaluation import results
    from tf_instdisc.evaluation.evaluate import evaluate

    options = {
        protocol: _OPTIONS[protocol]()
        for protocol in dict.fromkeys(evaluation.PROTOCOL.value)
    }
    measured = evaluate(run, options, _overrides(evaluation.OVERRIDES))
    print()
    print(results.table(measured))
    print(f"results: {shown(str(run.results))}")


def _overrides(names, prefix=""):
    values = {name: flags.FLAGS[f"{prefix}{name}"].value for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _knn():
    from tf_instdisc.evaluation.knn import KNNOptions

    return KNNOptions(
        num_neighbors=evaluation_knn.NUM_NEIGHBORS.value,
        temperature=evaluation_knn.TEMPERATURE.value,
        rows=tuple(evaluation_knn.KNN_ROWS.value),
        baselines=evaluation.BASELINES.value,
        seed=evaluation.SEED.value,
    )


def _linear():
    from tf_instdisc.evaluation.linear import LinearOptions

    layers = evaluation_linear.LINEAR_LAYERS.value
    return LinearOptions(
        layers=tuple(layers) if layers else None,
        num_features=evaluation_linear.LINEAR_FEATURES.value,
        epochs=evaluation_linear.LINEAR_EPOCHS.value,
        batch_size=evaluation_linear.LINEAR_BATCH_SIZE.value,
        learning_rate=evaluation_linear.LINEAR_LEARNING_RATE.value,
        schedule_epochs=tuple(
            int(e) for e in evaluation_linear.LINEAR_SCHEDULE_EPOCHS.value
        ),
        momentum=evaluation_linear.LINEAR_MOMENTUM.value,
        weight_decay=evaluation_linear.LINEAR_WEIGHT_DECAY.value,
        baselines=evaluation.BASELINES.value,
        keep_features=evaluation_linear.KEEP_FEATURES.value,
        seed=evaluation.SEED.value,
    )


def _fine_tuning():
    from tf_instdisc.evaluation.fine_tuning import FineTuneOptions

    group = evaluation_fine_tuning
    return FineTuneOptions(
        fractions=tuple(float(f) for f in group.FRACTIONS.value),
        epochs=group.FINETUNE_EPOCHS.value,
        min_updates=group.FINETUNE_MIN_UPDATES.value,
        batch_size=group.FINETUNE_BATCH_SIZE.value,
        optimizer=group.FINETUNE_OPTIMIZER.value,
        learning_rate=group.FINETUNE_LEARNING_RATE.value,
        scratch_learning_rate=group.SCRATCH_LEARNING_RATE.value,
        schedule=group.FINETUNE_SCHEDULE.value,
        schedule_epochs=tuple(
            int(e) for e in group.FINETUNE_SCHEDULE_EPOCHS.value
        ),
        weight_decay=group.FINETUNE_WEIGHT_DECAY.value,
        min_crop_area=group.FINETUNE_MIN_CROP_AREA.value,
        scratch=group.SCRATCH.value,
        seed=evaluation.SEED.value,
    )


def _svm():
    from tf_instdisc.evaluation.svm import SVMOptions

    return SVMOptions(
        layer=evaluation_svm.SVM_LAYER.value,
        costs=tuple(float(cost) for cost in evaluation_svm.SVM_COSTS.value),
        folds=evaluation_svm.SVM_FOLDS.value,
        num_features=evaluation_linear.LINEAR_FEATURES.value,
        keep_features=evaluation_linear.KEEP_FEATURES.value,
        seed=evaluation.SEED.value,
    )


def _transfer():
    from tf_instdisc.evaluation.transfer import TransferOptions

    images = _overrides(evaluation_transfer.NAMES, "transfer_")
    return TransferOptions(images, _knn(), _linear())


_OPTIONS = {
    "knn": _knn,
    "linear": _linear,
    "svm": _svm,
    "transfer": _transfer,
    "semi_supervised": _fine_tuning,
    "finetune": _fine_tuning,
    "detection": detection.options,
}


if __name__ == "__main__":
    main()
