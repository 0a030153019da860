"""A whole run: sources in, a run directory out.

Everything here is put together from the public parts; another training
script would use the same parts in its own way.
"""

import contextlib
import dataclasses
import functools
import math
import pathlib
import sys
import time

import keras
import numpy as np
import tensorflow as tf

from tf_instdisc import choices
from tf_instdisc.data import pipeline
from tf_instdisc.data.augment import Augmentation
from tf_instdisc.data.sources import ImageSource, fingerprint
from tf_instdisc.errors import UsageError
from tf_instdisc.method.encoders import build_encoder
from tf_instdisc.method.model import InstanceDiscrimination
from tf_instdisc.retrieval import knn as measure
from tf_instdisc.runs import directory, lock
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.runs.embedding import Embedded, embed
from tf_instdisc.runs.images import RunImages
from tf_instdisc.runs.load import load_encoder
from tf_instdisc.text import shown
from tf_instdisc.training import best, finishing, optimizer, saving
from tf_instdisc.training import strategy as strategies
from tf_instdisc.training.callbacks import KNNMonitor, MetricsFile
from tf_instdisc.training.health import BankHealth

_EVALUATION_BATCH = 256
_CHANGEABLE = (
    "batch_size",
    "epochs",
    "learning_rate",
    "schedule",
    "schedule_epochs",
    "warmup_epochs",
    "momentum",
    "weight_decay",
)


def _locked(train):
    """Has the process that writes keep others from the run's directory."""

    @functools.wraps(train)
    def locked_train(run_dir, *args, strategy=None, **kwargs):
        strategy = strategy or tf.distribute.get_strategy()
        place: contextlib.AbstractContextManager = contextlib.nullcontext()
        if strategies.is_chief(strategy):
            directory.check_usable(run_dir)
            place = lock.holding(run_dir)
        with place:
            train(run_dir, *args, strategy=strategy, **kwargs)

    return locked_train


@_locked
def train(
    run_dir: str,
    source: ImageSource,
    test_source: ImageSource | None,
    *,
    augmentation: Augmentation,
    encoder_config: dict,
    method_config: dict,
    optimizer_config: dict,
    batch_size: int,
    epochs: int,
    strategy: tf.distribute.Strategy | None = None,
    bank_init: str = "random",
    init_run: RunDirectory | None = None,
    crop_fraction: float = 1.0,
    num_neighbors: int = 200,
    knn_every: int = 1,
    knn_encode: bool = False,
    baselines: bool = False,
    checkpoint_minutes: float = 15.0,
    keep_checkpoints: int = 3,
    flags_text: str = "",
    grid_every: int = 0,
    finish: bool = False,
    keep_best: bool = False,
) -> None:
    """Trains an encoder and fills the run's directory, or goes on with it.

    On more than one host each calls it with the same arguments, and the
    directory is on a file system that they share; the chief alone writes.

    Args:
        run_dir: Missing, empty, or the directory of a run to continue.
        source: Images to train on.
        test_source: Images to classify by kNN, or None. Without labels on
            both sides there is no kNN.
        augmentation: What is drawn for each image; its size is that of the
            training images.
        encoder_config: Arguments of `build_encoder`.
        method_config: Arguments of `InstanceDiscrimination`, with `seed`.
        optimizer_config: Arguments of `optimization.build_optimizer`.
        batch_size: Images in a global batch, a multiple of the replicas.
        epochs: Epochs.
        strategy: As `build_strategy` makes it; one device by default.
        bank_init: `"random"` rows, or `"encode"` the images first.
        init_run: A finished run whose encoder and rows this one begins with,
            in place of `bank_init`; its ids must be those of `source`.
        crop_fraction: As in `evaluation_dataset`.
        num_neighbors: Neighbours that vote.
        knn_every: Epochs between two kNN measurements.
        knn_encode: Whether kNN is also measured on images encoded anew.
        baselines: Whether the untrained encoder and raw pixels are measured.
        checkpoint_minutes: Between two checkpoints inside an epoch.
        keep_checkpoints: Checkpoints that stay.
        flags_text: A flagfile that repeats the run.
        grid_every: Epochs between two neighbour grids in TensorBoard; 0 for
            none. Needs the extra `report`.
        finish: Whether the newest checkpoint is finished as it is, however
            far it is: nothing is trained. The run can still go on later.
        keep_best: Whether the encoder of the best epoch by kNN is kept
            beside the last one. Needs labels on both sides.

    Raises:
        ValueError: If an argument is out of range, the test classes are
            other than the training classes, or the directory holds a run
            with other settings.
        RunError: If the run cannot go on; its message says why.
    """
    strategy = strategy or tf.distribute.get_strategy()
    choices.require("bank_init", bank_init, choices.BANK_INITS)
    require_multiple(batch_size, strategy.num_replicas_in_sync)
    if method_config.get("jit_encoder") and encoder_config.get(
        "sync_batch_norm"
    ):
        raise UsageError(
            "`jit_encoder` does not go with `sync_batch_norm`: XLA cannot "
            "compile what replicas tell each other. Received: "
            "jit_encoder=True, sync_batch_norm=True"
        )
    choices.require_image_size(
        encoder_config.get("backbone", "resnet18"),
        encoder_config["image_size"],
        encoder_config.get("stem"),
        augmentation.image_size,
    )
    has_knn = measure.has_knn(source, test_source)
    if keep_best and not has_knn:
        raise UsageError(
            "`keep_best` needs kNN accuracy: training and test images with "
            "the same classes. Received: keep_best=True, "
            f"{source.name} with {source.num_classes} classes, "
            f"{test_source.name if test_source else 'no test images'}"
        )
    train_images, test_images = (
        s
        and pipeline.evaluation_dataset(
            s, encoder_config["image_size"], _EVALUATION_BATCH, crop_fraction
        )
        for s in (source, test_source)
    )
    is_chief = strategies.is_chief(strategy)
    run = RunDirectory(pathlib.Path(run_dir))
    if is_chief:
        settings = {
            "images": source.name,
            "num_instances": source.num_instances,
            "unreadable_images": len(source.unreadable),
            "names_of_images": fingerprint(source),
            **dataclasses.asdict(augmentation),
            **encoder_config,
            **method_config,
            **optimizer_config,
            "precision": keras.config.dtype_policy().name,
            "batch_size": batch_size,
            "epochs": epochs,
            "bank_init": bank_init,
            "init_run": str(init_run.path) if init_run else None,
        }
        run = directory.check_settings(run_dir, settings, _CHANGEABLE)
        run.load_instances()  # Raises now, and not after training.

    # === Model ===
    steps = pipeline.steps_per_epoch(source, batch_size)
    accumulate_steps = method_config.get("accumulate_steps", 1)
    with strategy.scope():
        encoder = build_encoder(**encoder_config)
        model = InstanceDiscrimination(
            encoder,
            source.num_instances,
            absent_ids=source.unreadable,
            **method_config,
        )
        model.compile(
            optimizer=optimizer.build_optimizer(
                steps_per_epoch=steps / accumulate_steps,
                epochs=epochs,
                **optimizer_config,
            )
        )
    knn = measure.KNNMeasure(
        num_neighbors, source.num_classes, model.temperature
    )
    progress = saving.restore_newest(run, model)
    is_finished = False
    if is_chief:
        is_finished = finishing.is_finished(
            run, source, encoder, progress, epochs, finish
        )
        if not finish and (not is_finished or run.has_damaged_flags()):
            run.save_settings(settings, flags_text)
    if progress is None:
        table = {}
        if has_knn and baselines and is_chief:
            table["raw pixels"] = knn(
                measure.pixels(train_images), measure.pixels(test_images)
            )
            table["untrained encoder"] = knn(
                embed(encoder, train_images), embed(encoder, test_images)
            )
        if init_run is not None:
            _begin_with(init_run, model)
        elif bank_init == "encode":
            model.encode_bank(train_images)
        progress = saving.Progress(baselines=table)
    elif progress.batch_size != batch_size:
        # The learning rate goes by the share of the run that is done.
        left = math.ceil((source.num_readable - progress.images) / batch_size)
        done = (progress.epochs + 1) * steps - left
        model.optimizer.iterations.assign(done // accumulate_steps)
    saving.require_one_beginning(strategy, progress, model)
    # The chief may write results before another host has looked for them.
    if any(strategies.sum_over_hosts(strategy, [int(is_finished)])):
        print(_finished_line(run, progress, epochs))
        return

    # === Training ===
    callbacks: list[keras.callbacks.Callback] = []
    if is_chief:
        run.keep_metrics(progress.epochs)
        if keep_best:
            best.catch_up(run, encoder, progress)
        if has_knn:
            callbacks.append(
                KNNMonitor(
                    test_images,
                    source.labels(),
                    source.num_classes,
                    num_neighbors=num_neighbors,
                    train_dataset=train_images if knn_encode else None,
                    every=knn_every,
                )
            )
        callbacks += [
            BankHealth(),
            MetricsFile(run),
            keras.callbacks.TensorBoard(run.tensorboard, write_graph=False),
        ]
        if grid_every:
            from tf_instdisc.retrieval.pages.tensorboard import EmbeddingView

            callbacks.append(
                EmbeddingView(
                    run.tensorboard,
                    lambda: RunImages(
                        finishing.training_bank(model.memory_bank, source),
                        run.read_flags(),
                        source,
                    ),
                    grid_every,
                )
            )
    callbacks.append(
        saving.Checkpointer(
            run,
            progress,
            batch_size,
            source.num_readable,
            checkpoint_minutes,
            keep_checkpoints,
            writes=is_chief,
        )
    )
    if keep_best and is_chief:
        callbacks.append(best.KeepBest(run))

    start = progress

    def dataset(share: pipeline.HostShare | None = None):
        return pipeline.training_dataset(
            source,
            augmentation,
            batch_size,
            epochs,
            method_config["seed"],
            start.epochs,
            start.images,
            share,
        )

    if progress.epochs < epochs and not finish:
        with (
            saving.stop_on_signals(model),
            strategies.lost_workers_named(strategy),
        ):
            model.fit(
                strategies.distribute(strategy, dataset),
                steps_per_epoch=steps,
                initial_epoch=progress.epochs,
                epochs=epochs,
                shuffle=False,  # The data set shuffles by itself.
                # A bar fills a log file with a line for every step.
                verbose=(1 if sys.stdout.isatty() else 2) if is_chief else 0,
                callbacks=callbacks,
            )
        progress = dataclasses.replace(progress, epochs=epochs, images=0)

    # === Results ===
    if is_chief:
        encoded_at = time.time()
        embedded = finishing.encode(encoder, train_images, source)
        if has_knn:
            test = embed(encoder, test_images)
            trained = finishing.training_bank(model.memory_bank, source)
            rows = Embedded(trained.rows, trained.instance_ids, trained.labels)
            table = {
                **progress.baselines,
                "trained encoder": knn(embedded, test),
                "trained encoder, rows of training": knn(rows, test),
            }
            print(knn.table(table))
        finishing.write(
            run, encoder, embedded, source, progress, encoded_at, init_run
        )
        print(_finished_line(run, progress, epochs))
        if keep_best and (kept := run.load_best()):
            print(
                f"best encoder: {shown(str(run.best_encoder))}, "
                f"epoch {kept['epoch']}, "
                f"kNN top-1 {kept['knn_top1']:.3f}"
            )
        print(f"run directory: {shown(str(run.path))}")
    # No host ends while the chief still writes.
    with strategies.lost_workers_named(strategy):
        strategies.sum_over_hosts(strategy, [1])


def _begin_with(run: RunDirectory, model: InstanceDiscrimination) -> None:
    trained = load_encoder(run.path)
    shapes, wanted = (
        [tuple(weight.shape) for weight in encoder.weights]
        for encoder in (trained, model.encoder)
    )
    bank = run.load_bank()
    if shapes != wanted or bank.instance_ids.max() >= model.num_instances:
        raise UsageError(
            "`init_run` must hold an encoder of the same kind, and ids below "
            f"{model.num_instances}. Received: init_run={run.path}, with "
            f"{trained.count_params()} parameters for "
            f"{model.encoder.count_params()} and the highest id "
            f"{bank.instance_ids.max()}"
        )
    normalized, wanted_normalized = map(
        _normalization, (trained, model.encoder)
    )
    if not np.allclose(normalized, wanted_normalized, rtol=1e-3):
        raise UsageError(
            "`mean` and `std` must be those of `init_run`. Received: "
            f"init_run={run.path}, with scale and offset "
            f"{normalized.tolist()} for {wanted_normalized.tolist()}"
        )
    model.encoder.set_weights(trained.get_weights())
    with model.distribute_strategy.scope():
        model.memory_bank.fill(bank.instance_ids, bank.rows)


def _normalization(encoder):
    """Scale and offset of the channels, `[2, 3]`."""
    for layer in encoder.layers:
        if layer.name == "normalize":
            return np.stack(np.broadcast_arrays(layer.scale, layer.offset))
    return np.array([[1.0] * 3, [0.0] * 3])


def require_multiple(batch_size: int, num_replicas: int) -> None:
    """Raises ValueError unless each replica gets as much of a batch."""
    if batch_size % num_replicas:
        raise UsageError(
            "`batch_size` is global and must be a multiple of the "
            f"{num_replicas} replicas. Received: batch_size={batch_size}"
        )


def _finished_line(run, progress, epochs) -> str:
    if progress.epochs >= epochs:
        return (
            f"The run in {run.path} is finished: {progress.epochs} epochs. "
            "To go on, raise --epochs."
        )
    more = f" and {progress.images} images of the next" * bool(progress.images)
    return (
        f"The run in {run.path} is finished as it is: {progress.epochs} of "
        f"{epochs} epochs{more}. To go on, leave --finish out."
    )
