"""The parts of a run, checked and built from its settings."""

import contextlib
import dataclasses
import functools
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tf_instdisc import remote
from tf_instdisc.config import OptimizerConfig, RunConfig
from tf_instdisc.data import pipeline
from tf_instdisc.data.folder_listing import require_folder
from tf_instdisc.data.sources import ImageSource, fingerprint
from tf_instdisc.errors import UsageError
from tf_instdisc.method.model import InstanceDiscrimination
from tf_instdisc.retrieval.votes import knn_accuracy
from tf_instdisc.runs import opening, sources
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.runs.embedding import BATCH_SIZE, Embedded, inference
from tf_instdisc.runs.record import RunRecord
from tf_instdisc.training import knn, optimizer
from tf_instdisc.training import strategy as strategies
from tf_instdisc.training.initial_encoder import (
    initial_encoder,
    require_train_size,
)


@dataclasses.dataclass(frozen=True)
class Work:
    """The parts of a run."""

    config: RunConfig
    run: RunDirectory
    record: RunRecord
    source: ImageSource
    train_images: tf.data.Dataset
    test_images: tf.data.Dataset | None
    strategy: tf.distribute.Strategy
    model: InstanceDiscrimination
    batch_size: int
    steps: int

    @property
    def is_chief(self) -> bool:
        return strategies.is_chief(self.strategy)

    @functools.cached_property
    def encode(self) -> Callable[[tf.Tensor], Any]:
        """The encoder on the devices of the training, compiled only once."""
        return inference(self.model.encoder)

    def measure(self, rows: Embedded, queries: Embedded) -> list[float]:
        """Returns kNN top-1 accuracy with many neighbors and with one."""
        wanted = [self.config.training.num_neighbors, 1]
        found = knn_accuracy(
            rows.embeddings,
            rows.labels,
            queries.embeddings,
            queries.labels,
            self.source.num_classes,
            wanted,
            self.config.method.temperature,
        )
        return [found[number]["top1"] for number in wanted]


@contextlib.contextmanager
def precision(name: str) -> Iterator[None]:
    """Sets Keras' dtype policy, by name, within a context."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def refresh_other_hosts(
    run: RunDirectory, strategy: tf.distribute.Strategy
) -> None:
    """Brings the other hosts' copies of a run at a URL up to date."""
    if strategies.num_hosts(strategy) == 1 or not remote.copy_of(run.path):
        return
    # The chief has pushed what a killed process of its host had not.
    strategies.barrier(strategy)
    if not strategies.is_chief(strategy):
        remote.refresh(run.path)


def open_sources(
    config: RunConfig, run: RunDirectory, is_chief: bool
) -> tuple[ImageSource, ImageSource | None]:
    """Opens training and test images; the run remembers what was read."""
    known: tuple[Any, Any] = (None, None)
    if config.training.init_run and config.data.images:
        known = opening.load(config.training.init_run).ids_by_name()
    for folder in (config.data.images, config.data.test_images):
        if folder:  # Raises before all training images are decoded.
            require_folder(folder)
    with tempfile.TemporaryDirectory() as folder:
        caches = sources.image_caches(run, config.data)
        if not is_chief:
            # Only the chief writes to the run.
            caches = {
                name: pathlib.Path(shutil.copy(path, folder))
                for name, path in caches.items()
                if config.data.images and path.exists()
            }
        source = sources.open_train(config.data, *known, caches.get("train"))
        return source, sources.open_test(config.data, caches.get("test"))


def prepare(
    config: RunConfig,
    run: RunDirectory,
    source: ImageSource,
    test_source: ImageSource | None,
    strategy: tf.distribute.Strategy,
) -> Work:
    """Checks that all settings fit together, and builds the model."""
    is_chief = strategies.is_chief(strategy)
    record = RunRecord(config, facts_of(source))
    if is_chief:
        opening.check_record(str(run.path), record)
        run.load_instances()  # Raises now instead of after training.
    # Only the chief reads the labels.
    has_knn = strategies.from_chief(
        strategy, knn.has_knn(source, test_source, is_chief)
    )
    if config.training.keep_best and not has_knn:
        raise UsageError(
            "`keep_best` needs kNN accuracy: labeled training and test images "
            "of the same classes. Received: keep_best=True, "
            f"{source.name} with {source.num_classes} classes, "
            f"{test_source.name if test_source else 'no test images'}"
        )
    train_images, test_images = (
        s
        and pipeline.evaluation_dataset(
            s,
            config.data.image_size,
            BATCH_SIZE,
            config.data.crop_fraction,
        )
        for s in (source, test_source if has_knn else None)
    )
    batch_size = pipeline.largest_batch_size(
        source, config.optimizer.batch_size, strategy.num_replicas_in_sync
    )
    steps = pipeline.steps_per_epoch(source, batch_size)
    _require_update(config.optimizer, steps)
    method = {n: v for n, v in vars(config.method).items() if n != "bank_init"}
    with strategy.scope():
        model = InstanceDiscrimination(
            initial_encoder(config),
            source.num_instances,
            absent_ids=source.unreadable,
            jit_encoder=config.encoder.jit_encoder,
            accumulate_steps=config.optimizer.accumulate_steps,
            seed=config.training.seed,
            **method,
        )
        used = dataclasses.replace(config.optimizer, batch_size=batch_size)
        model.compile(optimizer=optimizer.optimizer_of(used, steps))
    require_train_size(model.encoder, config)
    return Work(
        config,
        run,
        record,
        source,
        train_images,
        test_images,
        strategy,
        model,
        batch_size,
        steps,
    )


def _require_update(settings: OptimizerConfig, steps: int) -> None:
    """Raises UsageError unless a run with epochs updates its weights."""
    epochs, total = settings.epochs, settings.epochs * steps
    if epochs and total < settings.accumulate_steps:
        raise UsageError(
            "`accumulate_steps` must be at most the number of steps of the "
            "run, which would otherwise train nothing. Received: "
            f"accumulate_steps={settings.accumulate_steps}, and {total} steps "
            f"in epochs={epochs}. Use a smaller one, or more `epochs`."
        )


def facts_of(source: ImageSource) -> dict[str, Any]:
    """Returns what a run records about its images, as in `RunRecord`."""
    return {
        "images": source.name,
        "num_instances": source.num_instances,
        "unreadable_images": len(source.unreadable),
        "names_of_images": fingerprint(source),
    }


def require_multiple(batch_size: int, num_replicas: int) -> None:
    """Raises UsageError unless a batch divides equally among replicas."""
    if batch_size % num_replicas:
        raise UsageError(
            "`batch_size` is global and must be a multiple of the "
            f"{num_replicas} replicas. Received: batch_size={batch_size}"
        )
