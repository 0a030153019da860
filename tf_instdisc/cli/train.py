"""instdisc-train: trains an encoder and fills a run directory."""

import dataclasses
import pathlib

from absl import flags

from tf_instdisc import choices
from tf_instdisc.cli.flag_groups import (
    augmentation,
    data,
    encoder,
    objective,
    optimization,
    run,
)
from tf_instdisc.cli.launch import launch

GROUPS = (data, augmentation, encoder, objective, optimization, run)

_SUMMARY = """
Trains an encoder by instance discrimination, on images without labels.

  instdisc-train --flagfile=flags/digits.flags --run_dir=runs/digits
"""


def main() -> None:
    """Entry point of `instdisc-train`."""
    launch(_train, _SUMMARY, GROUPS)


def _train() -> None:
    from tf_instdisc.runs import directory as run_directory
    from tf_instdisc.runs import lock

    run_dir = run.RUN_DIR.value or ""
    run_directory.check_usable(run_dir)
    if run.DISTRIBUTION.value == "multi_worker":
        # Which host writes is known only later on.
        _train_in(run_dir)
        return
    # Now, as preparing the data may take long.
    with lock.holding(run_dir):
        _train_in(run_dir)


def _train_in(run_dir: str) -> None:
    from tf_instdisc.runs import directory as run_directory

    init_run = None
    if run.INIT_RUN.value:
        init_run = run_directory.load(run.INIT_RUN.value)

    import keras

    from tf_instdisc.training import strategy, train
    from tf_instdisc.training.optimizer import scaled_learning_rate

    # First, as it configures the devices.
    if run.LOGICAL_CPUS.value > 1:
        strategy.split_cpu(run.LOGICAL_CPUS.value)
    built_strategy = strategy.build_strategy(run.DISTRIBUTION.value)
    keras.config.set_dtype_policy(encoder.PRECISION.value)
    source, test_source = _sources(
        init_run, run_dir if strategy.is_chief(built_strategy) else None
    )
    # Not before: preparing a data set takes from Python's random numbers.
    keras.utils.set_random_seed(run.SEED.value)
    train.train(
        run_dir,
        source,
        test_source,
        augmentation=_augmentation(),
        encoder_config={
            "backbone": encoder.ENCODER.value,
            "image_size": data.IMAGE_SIZE.value,
            "embedding_dim": encoder.EMBEDDING_DIM.value,
            "width": encoder.WIDTH.value,
            "stem": encoder.STEM.value,
            "sync_batch_norm": encoder.SYNC_BATCH_NORM.value,
            # Runs from before there was this setting go on.
            **(
                {"stem_width": encoder.STEM_WIDTH.value}
                if encoder.STEM_WIDTH.value
                else {}
            ),
            **_channels(),
        },
        method_config={
            name: flags.FLAGS[name].value
            for name in (
                "objective",
                "num_negatives",
                "negatives",
                "temperature",
                "normalizer",
                "normalizer_momentum",
                "bank_momentum",
                "proximal_weight",
                "bank_dtype",
                "bank_placement",
                "jit_encoder",
                "accumulate_steps",
                "seed",
            )
        },
        optimizer_config={
            "optimizer": optimization.OPTIMIZER.value,
            "learning_rate": scaled_learning_rate(
                optimization.LEARNING_RATE.value,
                optimization.LEARNING_RATE_SCALING.value,
                optimization.BATCH_SIZE.value
                * optimization.ACCUMULATE_STEPS.value,
            ),
            "schedule": optimization.SCHEDULE.value,
            "schedule_epochs": [
                int(epoch) for epoch in optimization.SCHEDULE_EPOCHS.value
            ],
            "warmup_epochs": optimization.WARMUP_EPOCHS.value,
            "momentum": optimization.MOMENTUM.value,
            "weight_decay": optimization.WEIGHT_DECAY.value,
        },
        batch_size=optimization.BATCH_SIZE.value,
        epochs=optimization.EPOCHS.value,
        strategy=built_strategy,
        bank_init=objective.BANK_INIT.value,
        init_run=init_run,
        crop_fraction=data.CROP_FRACTION.value,
        num_neighbors=run.NUM_NEIGHBORS.value,
        knn_every=run.KNN_EVERY.value,
        knn_encode=run.KNN_ENCODE.value,
        baselines=run.BASELINES.value,
        checkpoint_minutes=run.CHECKPOINT_MINUTES.value,
        keep_checkpoints=run.KEEP_CHECKPOINTS.value,
        flags_text=_flags_text(),
        grid_every=run.GRID_EVERY.value,
        finish=run.FINISH.value,
        keep_best=run.KEEP_BEST.value,
    )


def _channels():
    """Mean and deviation unless they are the default.

    Runs from before these flags have no such settings, and go on.
    """
    values = {
        flag.name: choices.channel_values(flag.name, flag.value)
        for flag in (encoder.MEAN, encoder.STD)
    }
    defaults = {
        flag.name: choices.channel_values(flag.name, flag.default)
        for flag in (encoder.MEAN, encoder.STD)
    }
    return {} if values == defaults else values


def _sources(init_run, run_dir):
    """Training and test images; `run_dir` is where their checks are kept."""
    from tf_instdisc.runs import directory as run_directory
    from tf_instdisc.runs import sources

    settings = sources.DataSettings(
        **{
            field.name: flags.FLAGS[field.name].value
            for field in dataclasses.fields(sources.DataSettings)
        }
    )
    known = (None, None)
    if init_run is not None and settings.images:
        known = init_run.ids_by_name()
    memory, test_memory = None, None
    if run_dir is not None:
        directory = run_directory.RunDirectory(pathlib.Path(run_dir))
        memory = directory.labels
        if settings.images:
            memory = directory.checked_images
        test_memory = directory.checked_test_images
    source = sources.open_train(settings, *known, memory)
    return source, sources.open_test(settings, test_memory)


def _augmentation():
    from tf_instdisc.data.augment import Augmentation

    return Augmentation(
        image_size=data.TRAIN_IMAGE_SIZE.value or data.IMAGE_SIZE.value,
        crop_area=(augmentation.MIN_CROP_AREA.value, 1.0),
        brightness=augmentation.BRIGHTNESS.value,
        contrast=augmentation.CONTRAST.value,
        saturation=augmentation.SATURATION.value,
        hue=augmentation.HUE.value,
        grayscale_probability=augmentation.GRAYSCALE_PROBABILITY.value,
        flip=augmentation.FLIP.value,
    )


def _flags_text() -> str:
    """A flagfile of this run's flags: ours only, so that it stays short."""
    ours = flags.FLAGS.flags_by_module_dict()
    lines = [
        flag.serialize()
        for group in GROUPS
        for flag in ours[group.__name__]
        # What is done once is no part of the recipe.
        if flag.value is not None and flag.name != run.FINISH.name
    ]
    return "\n".join(line for line in lines if line) + "\n"


if __name__ == "__main__":
    main()
