"""A whole run: settings in, a run directory out.

This module only combines the public parts; another training script could
combine the same parts in its own way.
"""

import contextlib
import dataclasses
import pathlib
import time

import keras
import tensorflow as tf

from tf_instdisc import remote
from tf_instdisc.config import RunConfig
from tf_instdisc.data import pipeline
from tf_instdisc.data.augment import augmentation_of
from tf_instdisc.data.sources import ImageSource
from tf_instdisc.runs import lock, opening
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.runs.embedding import Embedded, embed
from tf_instdisc.runs.images import RunImages
from tf_instdisc.training import (
    auto_precision,
    baselines,
    best,
    finishing,
    initial_run,
    knn,
    parts,
    progress_lines,
    saving,
)
from tf_instdisc.training import strategy as strategies
from tf_instdisc.training.callbacks import (
    GatherBank,
    KNNMonitor,
    MetricsFile,
    StepCurves,
    UnreadLogs,
)
from tf_instdisc.training.health import BankHealth
from tf_instdisc.training.parts import Work
from tf_instdisc.training.progress_lines import EpochLines


def train(
    config: RunConfig,
    run_dir: str,
    source: ImageSource | None = None,
    test_source: ImageSource | None = None,
    *,
    strategy: tf.distribute.Strategy | None = None,
    finish: bool = False,
) -> RunDirectory:
    """Trains an encoder and fills the run's directory, or continues a run.

    With more than one host, each calls it with the same arguments, and the
    directory is at a URL or on a file system that they share.

    Args:
        config: The settings.
        run_dir: A missing or empty directory, or that of a run to continue.
        source: The images to train on; by default those of `config.data`.
        test_source: The images to classify by kNN, if `source` is given.
            kNN requires labels of both.
        strategy: Overrides the strategy that `config.training` names.
        finish: Whether to finish the newest checkpoint without further
            training, whatever its progress. The run can be continued later.

    Raises:
        UsageError: If the settings do not fit the images, the test classes
            differ from the training classes, or the directory holds a run
            with other settings.
        RunError: If the run cannot continue. The message states the reason.
    """
    opening.check_usable(run_dir)
    # This comes first, because it configures the devices.
    if config.training.logical_cpus > 1:
        strategies.split_cpu(config.training.logical_cpus)
    strategy = strategy or strategies.strategy_of(config.training)
    batch_size = config.optimizer.batch_size
    parts.require_multiple(batch_size, strategy.num_replicas_in_sync)
    is_chief = strategies.is_chief(strategy)
    run = RunDirectory(pathlib.Path(run_dir))
    config = auto_precision.resolved(config, run)
    with (
        lock.holding(run_dir) if is_chief else contextlib.nullcontext(),
        parts.precision(config.encoder.precision),
    ):
        parts.refresh_other_hosts(run, strategy)
        if source is None:
            source, test_source = parts.open_sources(config, run, is_chief)
        # Not earlier: preparing a dataset uses Python's random numbers.
        keras.utils.set_random_seed(config.training.seed)
        work = parts.prepare(config, run, source, test_source, strategy)
        progress = _begin(work, finish)
        if progress is None:
            return run
        if not progress.baselines:
            progress = dataclasses.replace(
                progress, baselines=baselines.measure(work)
            )
        if is_chief and config.training.keep_best:
            best.catch_up(run, work.model.encoder, progress)
        if progress.epochs < config.optimizer.epochs and not finish:
            progress = _fit(work, progress)
        work.model.memory_bank.gather_to_host()
        if is_chief:
            _write_results(work, progress)
        # No host ends while the chief is still writing.
        strategies.barrier(strategy)
    return run


def _begin(work: Work, finish: bool) -> saving.Progress | None:
    """Restores or starts the run; returns None if nothing is left to do."""
    run, model, epochs = work.run, work.model, work.config.optimizer.epochs
    progress = saving.restore_newest(run, model)
    if progress is not None:
        progress = progress.in_whole_batches(
            work.source.num_readable, work.batch_size
        )
    is_finished = False
    if work.is_chief:
        is_finished = finishing.is_finished(
            run, work.source, model.encoder, progress, epochs, finish
        )
        if not finish and not is_finished:
            opening.save_record(run, work.record)
        elif opening.has_moved(run, work.record) and (
            not is_finished or finishing.holds_rows_of(run, work.source)
        ):
            opening.save_places(run, work.record)
    if progress is None:
        progress = saving.Progress(
            baselines=baselines.measure(work, work.encode)
        )
        _fill_bank(work)
    elif progress.batch_size != work.batch_size:
        _rescale_iterations(work, progress)
    saving.require_same_checkpoint(work.strategy, progress, model)
    # The chief may write results before another host has checked for them.
    if strategies.from_chief(work.strategy, is_finished):
        print(progress_lines.finished_line(str(run.path), progress, epochs))
        if not progress.baselines:
            baselines.print_missing(work)
        return None
    return progress


def _fill_bank(work: Work) -> None:
    """Replaces the random rows of a new run, if its settings say so."""
    config, model = work.config, work.model
    if config.training.init_run:
        initial_run.begin_with(config.training.init_run, model)
    elif config.method.bank_init == "encode" and config.optimizer.epochs:
        model.encode_bank(work.train_images)


def _rescale_iterations(work: Work, progress: saving.Progress) -> None:
    """Converts the number of updates so far to the new batch size."""
    # The learning rate depends on the completed fraction of the run.
    images = work.source.num_readable - progress.images
    left = images // work.batch_size
    done = (progress.epochs + 1) * work.steps - left
    work.model.optimizer.iterations.assign(
        done // work.config.optimizer.accumulate_steps
    )


def _fit(work: Work, progress: saving.Progress) -> saving.Progress:
    config, source = work.config, work.source

    def dataset(share: pipeline.HostShare | None = None) -> tf.data.Dataset:
        return pipeline.training_dataset(
            source,
            augmentation_of(config),
            work.batch_size,
            config.optimizer.epochs,
            config.training.seed,
            progress.epochs,
            progress.images,
            share,
        )

    lines = EpochLines()
    callbacks = UnreadLogs(
        _callbacks(work, progress, lines),
        add_history=True,
        model=work.model,
        epochs=config.optimizer.epochs,
        steps=work.steps,
    )
    if work.is_chief:
        progress_lines.print_summary(work)
    with (
        saving.stop_on_signals(work.model),
        strategies.raising_worker_lost(work.strategy),
        contextlib.closing(lines),
    ):
        work.model.fit(
            strategies.distribute(work.strategy, dataset),
            steps_per_epoch=work.steps,
            initial_epoch=progress.epochs,
            epochs=config.optimizer.epochs,
            shuffle=False,  # The dataset is already shuffled.
            verbose=0,  # `EpochLines` is shorter.
            callbacks=callbacks,
        )
    return dataclasses.replace(
        progress, epochs=config.optimizer.epochs, images=0
    )


def _callbacks(
    work: Work, progress: saving.Progress, lines: EpochLines
) -> list[keras.callbacks.Callback]:
    run, source, training = work.run, work.source, work.config.training
    checkpointer = saving.Checkpointer(
        run,
        progress,
        work.batch_size,
        source.num_readable,
        training.checkpoint_minutes,
        training.keep_checkpoints,
        writes=work.is_chief,
    )
    callbacks: list[keras.callbacks.Callback] = [GatherBank()]
    if not work.is_chief:
        return [*callbacks, checkpointer]
    run.keep_metrics(progress.epochs)
    if work.test_images is not None:
        callbacks.append(
            KNNMonitor(
                work.test_images,
                source.labels(),
                source.num_classes,
                num_neighbors=training.num_neighbors,
                train_dataset=work.train_images
                if training.knn_encode
                else None,
                every=training.knn_every,
                encode=work.encode,
            )
        )
    callbacks += [
        lines,
        BankHealth(),
        MetricsFile(run),
        keras.callbacks.TensorBoard(run.tensorboard, write_graph=False),
        StepCurves(run.tensorboard / "steps"),
    ]
    if training.grid_every:
        from tf_instdisc.retrieval.pages.tensorboard import EmbeddingView

        callbacks.append(
            EmbeddingView(
                run.tensorboard,
                lambda: RunImages(
                    finishing.training_bank(work.model.memory_bank, source),
                    work.config,
                    source,
                ),
                training.grid_every,
            )
        )
    callbacks.append(checkpointer)
    if training.keep_best:
        callbacks.append(best.KeepBest(run))
    return callbacks


def _write_results(work: Work, progress: saving.Progress) -> None:
    run, source, model = work.run, work.source, work.model
    training, epochs = work.config.training, work.config.optimizer.epochs
    encoded_at = time.time()
    embedded = finishing.encode(work.encode, work.train_images, source)
    if work.test_images is not None:
        test = embed(work.encode, work.test_images)
        measured = {
            **progress.baselines,
            "trained encoder": work.measure(embedded, test),
        }
        if epochs:
            ids = finishing.readable_ids(source)
            rows = model.memory_bank.rows.numpy()[ids].astype("float32")
            measured["trained encoder, rows of training"] = work.measure(
                Embedded(rows, ids, source.labels()[ids]), test
            )
        print(knn.table(training.num_neighbors, measured))
    init_run = opening.load(training.init_run) if training.init_run else None
    finishing.write(
        run, model.encoder, embedded, source, progress, encoded_at, init_run
    )
    print(progress_lines.finished_line(str(run.path), progress, epochs))
    if training.keep_best:
        best.print_kept(run)
    progress_lines.print_next(remote.named(str(run.path)))
