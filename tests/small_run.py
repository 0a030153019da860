"""A run of a few seconds for tests that stop, damage or multiply processes.

python -m tests.small_run RUN_DIR [name=value ...]
"""

import json
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from tests.commands import use_plain_graphs

SETTINGS = {
    "strategy": "one_device",
    "logical_cpus": 1,
    "epochs": 6,
    "batch_size": 4,
    "num_images": 22,
    "num_ids": 22,
    "learning_rate": 0.1,
    "minutes": 0.0,
    "keep": 3,
    "accumulate_steps": 3,
    "objective": "nce",
    "bank_placement": "device",
    "negatives": "per_example",
    "seconds_per_step": 0.0,
    "dtype": "float32",
}


def linear_encoder(dim=4, side=2):
    """Small and without batch norm, so that replicas must agree."""
    import keras

    image = keras.Input((side, side, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = keras.layers.Dense(dim, name="projection")(keras.layers.Flatten()(x))
    return keras.Model(image, keras.layers.UnitNormalization()(x))


def run(run_dir, **changes):
    """Trains, or continues a run; returns the model."""
    import time

    import keras
    import numpy as np

    import tf_instdisc
    from tf_instdisc.config import RunConfig
    from tf_instdisc.data import pipeline
    from tf_instdisc.runs import directory as run_directory
    from tf_instdisc.runs import opening
    from tf_instdisc.runs.record import RunRecord
    from tf_instdisc.training import optimizer, saving, strategy
    from tf_instdisc.training.callbacks import MetricsFile

    settings = {**SETTINGS, **changes}
    if settings["logical_cpus"] > 1:
        strategy.split_cpu(settings["logical_cpus"])
    built = strategy.build_strategy(settings["strategy"])
    is_chief = strategy.is_chief(built)
    keras.config.set_floatx(settings["dtype"])
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    shape = (settings["num_images"], 2, 2, 3)
    source = tf_instdisc.array_source(rng.integers(0, 256, shape, np.uint8))
    batch_size, epochs = settings["batch_size"], settings["epochs"]
    with built.scope():
        model = tf_instdisc.InstanceDiscrimination(
            linear_encoder(),
            source.num_instances,
            objective=settings["objective"],
            bank_placement=settings["bank_placement"],
            num_negatives=6,
            temperature=0.3,
            proximal_weight=2.0,
            negatives=settings["negatives"],
            accumulate_steps=settings["accumulate_steps"],
        )
        model.compile(
            optimizer=optimizer.build_optimizer(
                "adamw",
                learning_rate=optimizer.build_schedule(
                    "constant",
                    learning_rate=settings["learning_rate"],
                    steps_per_epoch=1,
                    epochs=epochs,
                ),
            )
        )
    directory = run_directory.RunDirectory(run_dir)
    if is_chief:
        facts = {"num_instances": settings["num_images"]}
        opening.open_run(str(run_dir), RunRecord(RunConfig(), facts))
    progress = saving.restore_newest(directory, model) or saving.Progress()
    progress = progress.in_whole_batches(source.num_readable, batch_size)
    saving.require_same_checkpoint(built, progress, model)

    class Slow(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            time.sleep(settings["seconds_per_step"])

    banks = {}

    class Banks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            rows = built.experimental_local_results(model.memory_bank.rows)
            for number, copy in enumerate(rows):
                banks[f"bank_{epoch + 1}.{number}"] = copy.numpy()

    def batches(share):
        dataset = pipeline.training_dataset(
            source,
            tf_instdisc.Augmentation(2),
            batch_size,
            epochs,
            initial_epoch=progress.epochs,
            skip_images=progress.images,
            share=share,
        )
        # With fewer ids than images, some ids occur repeatedly in a batch.
        return dataset.map(lambda x, ids: (x, ids % settings["num_ids"]))

    callbacks = [
        Slow(),
        Banks(),
        saving.Checkpointer(
            directory,
            progress,
            batch_size,
            source.num_readable,
            settings["minutes"],
            settings["keep"],
            writes=is_chief,
        ),
    ]
    if is_chief:
        directory.keep_metrics(progress.epochs)
        callbacks.insert(0, MetricsFile(directory))
    with saving.stop_on_signals(model), strategy.raising_worker_lost(built):
        model.fit(
            strategy.distribute(built, batches),
            steps_per_epoch=pipeline.steps_per_epoch(source, batch_size),
            initial_epoch=progress.epochs,
            epochs=epochs,
            verbose=0,
            shuffle=False,
            callbacks=callbacks,
        )
    strategy.barrier(built)
    copies = {
        f"{name}.{number}": copy.numpy()
        for name, variable in model.training_state().items()
        for number, copy in enumerate(
            built.experimental_local_results(variable)
        )
    }
    # The sum of the losses of the last epoch, and its number of images.
    return {**copies, **banks, "metrics": np.array(model.metric_values())}


def main():
    import pathlib

    import numpy as np

    from tf_instdisc.errors import RunError

    changes = {}
    for argument in sys.argv[2:]:
        name, _, value = argument.partition("=")
        changes[name] = type(SETTINGS[name])(value)
    path = pathlib.Path(sys.argv[1])
    try:
        copies = run(path, **changes)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    task = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {})
    np.savez(path.with_name(f"state{task.get('index', 0)}.npz"), **copies)


if __name__ == "__main__":
    use_plain_graphs()
    main()
