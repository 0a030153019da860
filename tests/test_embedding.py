"""Embeddings of a dataset, on one device and on several."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_instdisc
from tests.labeled_run import make_labeled_run
from tf_instdisc.errors import UsageError
from tf_instdisc.runs import embedding
from tf_instdisc.runs.embedding import inference
from tf_instdisc.training.strategy import mirrored_cpus

pytestmark = pytest.mark.slow

NUM_IMAGES = 11
SIZES = []  # Of the parts that were encoded.


@keras.saving.register_keras_serializable("tests")
class Recorder(keras.layers.Layer):
    """Remembers how many images each call gets."""

    def call(self, images):
        def record(size):
            SIZES.append(int(size))
            return size

        size = tf.numpy_function(record, [tf.shape(images)[0]], tf.int32)
        with tf.control_dependencies([size]):
            return tf.identity(images)


def small_encoder():
    keras.utils.set_random_seed(0)
    image = keras.Input((4, 4, 3))
    x = keras.layers.BatchNormalization()(Recorder()(image))
    x = keras.layers.Dense(5)(keras.layers.Flatten()(x))
    return keras.Model(image, keras.layers.UnitNormalization()(x))


def dataset(batch_size):
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (NUM_IMAGES, 4, 4, 3)).astype(np.float32)
    ids, labels = np.arange(NUM_IMAGES), np.arange(NUM_IMAGES) % 3
    slices = tf.data.Dataset.from_tensor_slices((images, ids, labels))
    return slices.batch(batch_size)


@pytest.fixture(scope="module", params=[2, 4])
def mirrored(request):
    """A number of replicas, and an encoder on as many devices."""
    devices = [f"CPU:{i}" for i in range(request.param)]
    with mirrored_cpus(devices).scope():
        return request.param, small_encoder()


@pytest.mark.parametrize("batch_size", [1, 4, 5, 11])
def test_several_devices_give_the_embeddings_of_one(mirrored, batch_size):
    expected = tf_instdisc.embed(small_encoder(), dataset(batch_size))
    found = tf_instdisc.embed(mirrored[1], dataset(batch_size), NUM_IMAGES)
    np.testing.assert_allclose(found.embeddings, expected.embeddings, atol=1e-6)
    np.testing.assert_array_equal(found.instance_ids, expected.instance_ids)
    np.testing.assert_array_equal(found.labels, expected.labels)


def test_each_device_encodes_its_part(mirrored):
    replicas, encoder = mirrored
    SIZES.clear()
    inference(encoder)(tf.zeros([8, 4, 4, 3]))
    assert [8 // replicas] * replicas == SIZES


def test_new_weights_are_used_by_all_devices(mirrored):
    encoder = mirrored[1]
    encode = inference(encoder)
    kept = encoder.get_weights()
    images = next(iter(dataset(8)))[0]
    before = encode(images)
    try:
        encoder.set_weights([-w if w.ndim == 2 else w for w in kept])
        np.testing.assert_allclose(encode(images), -before, atol=1e-6)
    finally:
        encoder.set_weights(kept)


def test_another_number_of_images_is_refused():
    with pytest.raises(UsageError, match="num_images=7, 11 images"):
        tf_instdisc.embed(small_encoder(), dataset(4), 7)


@pytest.fixture
def two_gpus(monkeypatch):
    """Two logical CPU devices, which take the places of GPUs."""
    monkeypatch.setattr(embedding, "gpus", lambda: ["CPU:1", "CPU:3"])


def test_a_model_is_copied_to_the_gpus_and_stays_as_it_is(two_gpus):
    encoder = small_encoder()
    expected = encoder(next(iter(dataset(11)))[0])
    SIZES.clear()
    found = tf_instdisc.embed(encoder, dataset(8))
    assert SIZES == [4, 4, 2, 2]  # The gap of the last batch is filled.
    np.testing.assert_allclose(found.embeddings, expected, atol=1e-6)
    assert encoder.distribute_strategy.num_replicas_in_sync == 1


def test_one_gpu_needs_no_copy(monkeypatch):
    encoder = small_encoder()
    assert embedding.on_devices(encoder) is encoder
    monkeypatch.setattr(embedding, "gpus", lambda: ["CPU:0"])
    assert embedding.on_devices(encoder) is encoder


def test_outputs_of_several_layers_are_divided_and_joined(two_gpus):
    encoder = small_encoder()
    layers = [encoder.layers[-2].output, {"last": encoder.output}]
    model = keras.Model(encoder.input, layers)
    images = next(iter(dataset(7)))[0]
    found = inference(embedding.on_devices(model))(images)
    expected = model(images)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[1]["last"], expected[1]["last"], atol=1e-6)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "options",
    [
        {"knn": tf_instdisc.KNNOptions(num_neighbors=5, baselines=True)},
        {"svm": tf_instdisc.SVMOptions("conv5", (0.1,))},
    ],
    ids=lambda options: next(iter(options)),
)
def test_protocols_measure_the_same_on_two_gpus(
    labeled_run, monkeypatch, options
):
    def measure():
        return [
            (one.name, one.metric, one.value)
            for one in tf_instdisc.evaluate(labeled_run, options)
        ]

    expected = measure()
    devices = []
    monkeypatch.setattr(
        embedding, "gpus", lambda: devices.append(1) or ["CPU:1", "CPU:2"]
    )
    assert measure() == expected
    assert devices


@pytest.fixture(scope="module")
def labeled_run(tmp_path_factory):
    return make_labeled_run(tmp_path_factory.mktemp("labeled"))


def test_what_cannot_be_copied_is_encoded_where_it_is(two_gpus):
    class Subclassed(keras.Model):
        def __init__(self, encoder):
            super().__init__()
            self.encoder = encoder

        def call(self, images):
            return self.encoder(images)

    encoder = small_encoder()
    expected = tf_instdisc.embed(encoder, dataset(4)).embeddings
    found = tf_instdisc.embed(Subclassed(encoder), dataset(4)).embeddings
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with mirrored_cpus(["CPU:0", "CPU:1"]).scope():
        found = tf_instdisc.embed(encoder, dataset(4)).embeddings
    np.testing.assert_allclose(found, expected, atol=1e-6)
