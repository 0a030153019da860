"""One run on one, two and four replicas: the same weights, bank, Z, loss."""

import functools
import itertools
import os

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_instdisc
from tests.small_run import linear_encoder
from tf_instdisc.data import pipeline
from tf_instdisc.method import fused_batch_norm
from tf_instdisc.training import optimizer, strategy

pytestmark = pytest.mark.slow

OBJECTIVES = (
    ("softmax", "shared"),
    ("parametric", "shared"),
    ("nce", "shared"),
    ("nce", "per_example"),
    ("info_nce", "shared"),
    ("info_nce", "per_example"),
)
# (objective, negatives), proximal weight, accumulation.
EVERYTHING = list(itertools.product(OBJECTIVES, (0.0, 2.0), (1, 3)))
# Each pair of two values is among these.
SOME = [
    (OBJECTIVES[0], 2.0, 3),
    (OBJECTIVES[1], 0.0, 1),
    (OBJECTIVES[2], 0.0, 3),
    (OBJECTIVES[3], 2.0, 1),
    (OBJECTIVES[4], 2.0, 1),
    (OBJECTIVES[5], 0.0, 3),
]
NUM_IMAGES = 17  # Batches hold 8: one image is dropped in each epoch.
CASES = EVERYTHING if os.environ.get("INSTDISC_ALL_REPLICAS") else SOME
TOLERANCES = {"float64": 1e-9, "float32": 1e-4}


@pytest.fixture(scope="module")
def strategies():
    return [
        tf.distribute.get_strategy(),
        strategy.mirrored_cpus(["CPU:0", "CPU:1"]),
        strategy.mirrored_cpus([f"CPU:{i}" for i in range(4)]),
    ]


@pytest.fixture(autouse=True)
def float32_again():
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def batch_norm_encoder(trainable):
    image = keras.Input((4, 4, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = keras.layers.Conv2D(3, 3, use_bias=False)(x)
    x = keras.layers.BatchNormalization(
        synchronized=trainable, trainable=trainable
    )(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Dense(4)(keras.layers.Flatten()(x))
    return keras.Model(image, keras.layers.UnitNormalization()(x))


def test_replicas_do_not_mix_the_statistics_of_batch_norms(strategies):
    """Replicas take turns at the synchronized layer between plain ones."""
    built = strategies[1]

    def statistics(call_of):
        keras.utils.set_random_seed(0)
        with built.scope():
            image = x = keras.Input((4, 4, 3))
            for synchronized in (False, True, False):
                x = keras.layers.Conv2D(3, 1)(x)
                x = keras.layers.BatchNormalization(synchronized=synchronized)(
                    x
                )
            encoder = keras.Model(image, keras.layers.Flatten()(x))
            call = call_of(encoder)
        images = built.experimental_distribute_values_from_function(
            lambda context: tf.random.stateless_normal(
                [4, 4, 4, 3], [0, context.replica_id_in_sync_group]
            )
        )
        tf.function(lambda x: built.run(call, args=(x,)))(images)
        return [np.array(v) for v in encoder.non_trainable_variables]

    plain = statistics(lambda encoder: lambda x: encoder(x, training=True))
    fused = statistics(fused_batch_norm.training_call)
    for one, other in zip(fused, plain, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@functools.cache
def batches(built, dtype, num_ids=None):
    """Ten epochs; kept, as building them takes a third of a fit."""
    del dtype  # It decides what the graph of the dataset computes in.
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_IMAGES, 4, 4, 3), np.uint8)
    source = tf_instdisc.array_source(images)
    return strategy.distribute(
        built,
        lambda share: pipeline.training_dataset(
            source,
            tf_instdisc.Augmentation(4, min_crop_area=0.5),
            batch_size=8,
            epochs=10,
            share=share,
        ).map(lambda images, ids: (images, ids % (num_ids or NUM_IMAGES))),
    )


def fitted(
    built,
    dtype,
    encoder=linear_encoder,
    num_ids=None,
    **arguments,
):
    """All state after 20 steps, a list of copies for each variable."""
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    keras.utils.set_random_seed(0)
    with built.scope():
        arguments = {"num_negatives": 6, "temperature": 0.3, **arguments}
        model = tf_instdisc.InstanceDiscrimination(
            encoder(), NUM_IMAGES, **arguments
        )
        model.compile(
            optimizer=optimizer.SGD(
                0.1, momentum=0.9, coupled_weight_decay=0.01
            )
        )
    seen = []

    class CopiesAreEqual(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            copies = built.experimental_local_results(model.memory_bank.rows)
            seen.append(len(copies))
            for copy in copies[1:]:
                np.testing.assert_array_equal(copy, copies[0])

    history = model.fit(
        batches(built, dtype, num_ids),
        steps_per_epoch=2,
        epochs=10,
        verbose=0,
        shuffle=False,
        callbacks=[CopiesAreEqual()],
    ).history
    assert seen == [built.num_replicas_in_sync] * 10
    state = {
        name: [copy.numpy() for copy in built.experimental_local_results(v)]
        for name, v in model.training_state().items()
        if not name.startswith("metric")
    }
    return {**state, "loss": [np.array(history["loss"])]}


def assert_equal_on_all(strategies, dtype, *arguments, **named):
    one, *others = (
        fitted(built, dtype, *arguments, **named) for built in strategies
    )
    for other in others:
        for name, (expected,) in one.items():
            for copy in other[name]:
                np.testing.assert_allclose(
                    copy,
                    expected,
                    rtol=TOLERANCES[dtype],
                    atol=TOLERANCES[dtype],
                    err_msg=name,
                )


@pytest.mark.exhaustive_variants(
    "info_nce-per_example-0.0-3-float64",
    "info_nce-shared-2.0-1*",
    "nce-per_example-2.0-1-float64",
    "nce-shared-0.0-3-float32",
    "parametric-shared-0.0-1-float64",
    "softmax-shared-2.0-3-float64",
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("objective", "proximal_weight", "accumulate_steps"),
    CASES,
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else None,
)
def test_replicas_equal_one_device(
    strategies, dtype, objective, proximal_weight, accumulate_steps
):
    if dtype == "float32" and CASES is SOME and objective != ("nce", "shared"):
        pytest.skip("with INSTDISC_ALL_REPLICAS=1")
    assert_equal_on_all(
        strategies,
        dtype,
        encoder=lambda: linear_encoder(side=4),
        objective=objective[0],
        negatives=objective[1],
        proximal_weight=proximal_weight,
        accumulate_steps=accumulate_steps,
    )


@pytest.mark.exhaustive_variants("float32*", "float64-frozen")
@pytest.mark.parametrize(
    ("dtype", "trainable"),
    [("float64", True), ("float64", False), ("float32", True)],
    ids=["float64-sync", "float64-frozen", "float32-sync"],
)
def test_with_synchronized_or_frozen_batch_norm(strategies, dtype, trainable):
    assert_equal_on_all(
        strategies,
        dtype,
        encoder=lambda: batch_norm_encoder(trainable),
        objective="nce",
    )


@pytest.mark.exhaustive_variants("4")
@pytest.mark.parametrize("replicas", [2, 4])
def test_with_ids_that_stand_more_than_once_in_a_batch(strategies, replicas):
    by_number = {s.num_replicas_in_sync: s for s in strategies}
    assert_equal_on_all(
        [by_number[1], by_number[replicas]],
        "float64",
        num_ids=5,
        encoder=lambda: linear_encoder(side=4),
        objective="nce",
        accumulate_steps=3,
    )


def uneven(built, dataset, objective):
    """Losses, weights and bank after epochs with a smaller last batch."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    keras.utils.set_random_seed(0)
    with built.scope():
        model = tf_instdisc.InstanceDiscrimination(
            linear_encoder(),
            NUM_IMAGES,
            objective=objective,
            negatives="per_example",
            num_negatives=6,
            temperature=0.3,
        )
        model.compile(optimizer=keras.optimizers.SGD(0.1, momentum=0.9))
    fit = {"epochs": 2, "shuffle": False, "verbose": 0}
    history = model.fit(dataset, validation_data=dataset, **fit).history
    assert history["images_per_second"][-1] > 0
    return [history["loss"], history["val_loss"], *model.get_weights()]


@pytest.mark.exhaustive
@pytest.mark.parametrize("objective", ["softmax", "info_nce", "parametric"])
@pytest.mark.parametrize("batch_size", [3, 16])
@pytest.mark.parametrize("form", ["pairs", "dictionaries", "weights"])
def test_a_users_smaller_last_batch(strategies, objective, batch_size, form):
    if form != "pairs" and objective != "info_nce":
        pytest.skip("the objective never sees the form")
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (NUM_IMAGES, 2, 2, 3))
    ids = np.arange(NUM_IMAGES)
    parts = {
        "pairs": (images, ids),
        "dictionaries": {"image": images, "id": ids},
        "weights": (images, ids, rng.uniform(0, 2, NUM_IMAGES)),
    }[form]
    dataset = tf.data.Dataset.from_tensor_slices(parts).batch(batch_size)
    one, *others = (uneven(s, dataset, objective) for s in strategies)
    for other in others:
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.exhaustive
def test_a_smaller_last_batch_through_convolutions(strategies):
    images = np.random.default_rng(0).uniform(0, 255, (5, 4, 4, 3))
    for built in strategies:
        with built.scope():
            model = tf_instdisc.InstanceDiscrimination(
                batch_norm_encoder(True), 5
            )
            model.compile(optimizer="sgd")
        history = model.fit(
            images,
            np.arange(5),
            batch_size=4,
            validation_data=(images, np.arange(5)),
            verbose=0,
        ).history
        assert np.isfinite([history["loss"], history["val_loss"]]).all()
        assert all(np.isfinite(w).all() for w in model.get_weights())


def test_hosts_and_replicas_share_each_epoch():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (22, 4, 4, 3), np.uint8)
    source = tf_instdisc.array_source(images)

    def batches(**arguments):
        dataset = pipeline.training_dataset(
            source, tf_instdisc.Augmentation(4), 8, epochs=2, **arguments
        )
        return [(x.numpy(), ids.numpy()) for x, ids in dataset]

    whole = batches(skip_images=3)
    for num_hosts, replicas in ((2, 2), (4, 1), (1, 8), (2, 4)):
        shares = [
            batches(
                skip_images=3,
                share=pipeline.HostShare(host, num_hosts, replicas),
            )
            for host in range(num_hosts)
        ]
        assert [len(share) for share in shares] == [
            len(whole) * replicas
        ] * num_hosts
        for step, (x, ids) in enumerate(whole):
            parts = [
                part
                for share in shares
                for part in share[step * replicas : (step + 1) * replicas]
            ]
            joined = np.concatenate([part[1] for part in parts])
            np.testing.assert_array_equal(joined, ids)
            np.testing.assert_array_equal(
                np.concatenate([part[0] for part in parts]), x
            )


def test_a_batch_that_does_not_divide_is_refused():
    from tf_instdisc.training import parts

    with pytest.raises(ValueError, match="multiple of the 4 replicas"):
        parts.require_multiple(10, 4)


class Spare(keras.layers.Layer):
    """Has a weight that it does not use."""

    def build(self, shape):
        self.spare = self.add_weight((3,), "ones", name="spare")

    def call(self, x):
        return x


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize(
    ("replicas", "accumulate_steps", "scales_loss", "clipping"),
    [
        (1, 1, False, {}),
        (1, 2, False, {"clipnorm": 0.1}),
        (1, 2, True, {}),
        (2, 1, False, {"clipnorm": 0.1}),
        (2, 1, False, {"global_clipnorm": 0.1}),
        (2, 1, True, {}),
        (2, 2, True, {"clipvalue": 0.01}),
    ],
)
def test_a_weight_without_a_gradient_stays_as_it_is(
    two_replicas, replicas, accumulate_steps, scales_loss, clipping
):
    def trained(trainable):
        keras.utils.set_random_seed(0)
        inner = linear_encoder()
        spare = Spare()
        x = spare(inner.output)
        spare.trainable = trainable
        model = tf_instdisc.InstanceDiscrimination(
            keras.Model(inner.input, x), 8, accumulate_steps=accumulate_steps
        )
        optimizer = keras.optimizers.SGD(0.1, weight_decay=0.1, **clipping)
        if scales_loss:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        model.compile(optimizer=optimizer)
        images = np.random.default_rng(0).uniform(0, 255, (8, 2, 2, 3))
        model.fit(images, np.arange(8), batch_size=4, epochs=2, verbose=0)
        return [w.numpy() for w in model.encoder.weights]

    one = tf.distribute.get_strategy()
    with two_replicas.scope() if replicas > 1 else one.scope():
        for found, frozen in zip(trained(True), trained(False), strict=True):
            np.testing.assert_allclose(found, frozen, rtol=1e-5, atol=1e-6)
