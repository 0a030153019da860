"""The kNN monitor inside fit."""

import keras
import numpy as np
import pytest

import tf_instdisc
from tests.small_run import linear_encoder


def parts(train_labels=None):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 2, 2, 3), np.uint8)
    labels = np.arange(30) % 3
    train = tf_instdisc.array_source(images[:20], labels[:20])
    test = tf_instdisc.array_source(images[20:], labels[20:])
    model = tf_instdisc.InstanceDiscrimination(
        linear_encoder(), 20, objective="softmax"
    )
    model.compile(optimizer=keras.optimizers.SGD(0.01))
    dataset = tf_instdisc.training_dataset(
        train, tf_instdisc.Augmentation(2), 5, epochs=4
    )
    monitor = tf_instdisc.KNNMonitor(
        tf_instdisc.evaluation_dataset(test, 2, 4),
        train.labels() if train_labels is None else train_labels,
        num_classes=3,
        num_neighbors=5,
        train_dataset=tf_instdisc.evaluation_dataset(train, 2, 8),
        every=3,
    )
    return model, dataset, monitor, (images, labels)


def test_it_measures_bank_and_encoded_images_and_writes_nothing():
    model, dataset, monitor, (images, labels) = parts()
    seen = []

    class Spy(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(dict(logs))

    model.fit(
        dataset,
        steps_per_epoch=4,
        epochs=4,
        callbacks=[monitor, Spy()],
        verbose=0,
    )
    assert ["knn_top1" in logs for logs in seen] == [False, False, True, True]
    rows = model.memory_bank.rows.numpy()
    embeddings = model.encoder(images.astype(np.float32)).numpy()
    for suffix, train_rows in (("", rows), ("_encoded", embeddings[:20])):
        expected = tf_instdisc.knn_accuracy(
            train_rows, labels[:20], embeddings[20:], labels[20:], 3, [5], 0.07
        )[5]
        assert seen[-1][f"knn_top1{suffix}"] == expected["top1"]
        assert seen[-1][f"knn_top5{suffix}"] == expected["top5"]


def test_the_encoder_is_traced_in_the_first_epoch_only():
    traces = []

    class Counting(keras.layers.Layer):
        def call(self, inputs, training=None):
            if training is False:
                traces.append(inputs.shape)
            return inputs

    encoder = linear_encoder()
    encoder = keras.Model(encoder.input, Counting()(encoder.output))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 2, 2, 3), np.uint8)
    source = tf_instdisc.array_source(images, np.arange(30) % 3)
    # Batches of 4 and 2: of two shapes.
    dataset = tf_instdisc.evaluation_dataset(source, 2, 4)
    model = tf_instdisc.InstanceDiscrimination(encoder, 30, num_negatives=6)
    model.compile(optimizer=keras.optimizers.SGD(0.01))
    monitor = tf_instdisc.KNNMonitor(
        dataset, source.labels(), 3, num_neighbors=5, train_dataset=dataset
    )
    seen = []

    class Spy(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(len(traces))

    model.fit(
        images,
        np.arange(30),
        epochs=3,
        callbacks=[monitor, Spy()],
        verbose=0,
    )
    assert seen[0] > 0
    assert seen == [seen[0]] * 3


def test_labels_of_another_data_set_are_refused_before_training():
    model, dataset, monitor, _ = parts(train_labels=[0, 1])
    with pytest.raises(ValueError, match="must have 20 labels"):
        model.fit(dataset, steps_per_epoch=4, callbacks=[monitor], verbose=0)
