"""A whole run: sources in, a run directory out.

Everything here is put together from the public parts; another training
script would use the same parts in its own way.
"""

import sys

import keras
import numpy as np
import tensorflow as tf

from tf_instdisc import choices, optimization
from tf_instdisc.augment import Augmentation
from tf_instdisc.callbacks import KNNMonitor, MetricsFile
from tf_instdisc.data import pipeline
from tf_instdisc.data.sources import ImageSource
from tf_instdisc.embed import Embedded, embed
from tf_instdisc.encoders import build_encoder
from tf_instdisc.health import BankHealth
from tf_instdisc.model import InstanceDiscrimination
from tf_instdisc.neighbors import knn_accuracy
from tf_instdisc.run_directory import Bank, RunDirectory
from tf_instdisc.run_images import RunImages

_EVALUATION_BATCH = 256


def train(
    run: RunDirectory,
    source: ImageSource,
    test_source: ImageSource | None,
    *,
    augmentation: Augmentation,
    encoder_config: dict,
    method_config: dict,
    optimizer_config: dict,
    batch_size: int,
    epochs: int,
    bank_init: str = "random",
    crop_fraction: float = 1.0,
    num_neighbors: int = 200,
    knn_every: int = 1,
    knn_encode: bool = False,
    baselines: bool = False,
    grid_every: int = 0,
) -> keras.Model:
    """Trains an encoder and fills the run's directory.

    Args:
        run: An empty run directory.
        source: Images to train on.
        test_source: Images to classify by kNN, or None. Without labels on
            both sides there is no kNN.
        augmentation: What is drawn for each image; its size is that of the
            training images.
        encoder_config: Arguments of `build_encoder`.
        method_config: Arguments of `InstanceDiscrimination`, with `seed`.
        optimizer_config: Arguments of `optimization.build_optimizer`.
        batch_size: Images in a global batch.
        epochs: Epochs.
        bank_init: `"random"` rows, or `"encode"` the images first.
        crop_fraction: As in `evaluation_dataset`.
        num_neighbors: Neighbours that vote.
        knn_every: Epochs between two kNN measurements.
        knn_encode: Whether kNN is also measured on images encoded anew.
        baselines: Whether the untrained encoder and raw pixels are measured.
        grid_every: Epochs between two neighbour grids in TensorBoard; 0 for
            none. Needs the extra `report`.

    Returns:
        The trained encoder.

    Raises:
        ValueError: If an argument is out of range, or the test classes are
            other than the training classes.
    """
    choices.require("bank_init", bank_init, choices.BANK_INITS)
    has_knn = _has_knn(source, test_source)
    train_images, test_images = (
        s
        and pipeline.evaluation_dataset(
            s, encoder_config["image_size"], _EVALUATION_BATCH, crop_fraction
        )
        for s in (source, test_source)
    )
    steps = pipeline.steps_per_epoch(source, batch_size)
    with _strategy().scope():
        encoder = build_encoder(**encoder_config)
        model = InstanceDiscrimination(
            encoder, source.num_instances, **method_config
        )
        model.compile(
            optimizer=optimization.build_optimizer(
                steps_per_epoch=steps, epochs=epochs, **optimizer_config
            )
        )
    temperature = model.temperature

    def measure(rows: Embedded, queries: Embedded) -> list[float]:
        wanted = [num_neighbors, 1]
        accuracies = knn_accuracy(
            rows.embeddings,
            rows.labels,
            queries.embeddings,
            queries.labels,
            source.num_classes,
            wanted,
            temperature,
        )
        return [accuracies[number]["top1"] for number in wanted]

    table: dict[str, list[float]] = {}
    if has_knn and baselines:
        table["raw pixels"] = measure(
            _pixels(train_images), _pixels(test_images)
        )
        table["untrained encoder"] = measure(
            embed(encoder, train_images), embed(encoder, test_images)
        )
    if bank_init == "encode":
        model.encode_bank(train_images)

    callbacks: list[keras.callbacks.Callback] = []
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
    callbacks.append(BankHealth())
    callbacks.append(MetricsFile(run))
    callbacks.append(
        keras.callbacks.TensorBoard(run.tensorboard, write_graph=False)
    )
    if grid_every:
        from tf_instdisc.report.tensorboard import EmbeddingView

        callbacks.append(
            EmbeddingView(
                run.tensorboard,
                lambda: RunImages(
                    _bank(model, source), run.read_flags(), source
                ),
                grid_every,
            )
        )
    model.fit(
        pipeline.training_dataset(
            source, augmentation, batch_size, epochs, method_config["seed"]
        ),
        steps_per_epoch=steps,
        epochs=epochs,
        shuffle=False,  # The data set shuffles by itself.
        callbacks=callbacks,
        # A progress bar fills a log file with a line for every step.
        verbose=1 if sys.stdout.isatty() else 2,
    )

    run.save_encoder(encoder)
    bank = _bank(model, source)
    run.save_bank(bank)
    if has_knn:
        test = embed(encoder, test_images)
        table["trained encoder"] = measure(embed(encoder, train_images), test)
        in_bank = Embedded(bank.rows, bank.instance_ids, bank.labels)
        table["trained, rows of the bank"] = measure(in_bank, test)
        print(_format(table, num_neighbors))
    print(f"run directory: {run.path}")
    return encoder


def _has_knn(source, test_source) -> bool:
    if test_source is None:
        return False
    if source.class_names != test_source.class_names:
        raise ValueError(
            "The test images must have the classes of the training images. "
            f"Received: {test_source.class_names} for training classes "
            f"{source.class_names}"
        )
    return source.num_classes > 0


def _strategy() -> tf.distribute.Strategy:
    if len(tf.config.list_physical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def _pixels(dataset) -> Embedded:
    # Around mid-grey: the cosine of two images of positive pixels is near 1.
    columns = [
        (
            images.numpy().reshape(len(images), -1) - 127.5,
            ids.numpy(),
            labels.numpy(),
        )
        for images, ids, labels in dataset
    ]
    pixels, ids, labels = map(np.concatenate, zip(*columns, strict=True))
    norms = np.linalg.norm(pixels, axis=1, keepdims=True)
    return Embedded(pixels / np.maximum(norms, 1e-12), ids, labels)


def _bank(model, source) -> Bank:
    ids = np.setdiff1d(np.arange(source.num_instances), source.unreadable)
    return Bank(
        rows=model.memory_bank.rows.numpy()[ids],
        instance_ids=ids,
        names=np.array([source.instance_name(int(i)) for i in ids]),
        labels=source.labels()[ids],
        class_names=source.class_names or (),
    )


def _format(table: dict[str, list[float]], num_neighbors: int) -> str:
    lines = [
        "",
        f"| embeddings | kNN top-1, k = {num_neighbors} | kNN top-1, k = 1 |",
        "| --- | --- | --- |",
    ]
    for name, values in table.items():
        cells = " | ".join(f"{value:.3f}" for value in values)
        lines.append(f"| {name} | {cells} |")
    return "\n".join([*lines, ""])
