"""Any Keras model as a backbone."""

import keras
import numpy as np
import pytest

import tf_instdisc
from tests.test_encoders import images_of
from tf_instdisc import build_encoder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def mobile_net():
    keras.utils.set_random_seed(3)
    return keras.applications.MobileNetV2(
        input_shape=(32, 32, 3),
        alpha=0.35,
        weights=None,
        include_top=False,
    )


def sequential(size=8):
    return keras.Sequential(
        [
            keras.Input((size, size, 3)),
            keras.layers.Conv2D(4, 3, name="first"),
            keras.layers.Flatten(name="last"),
        ]
    )


def test_it_is_normalized_averaged_and_projected_and_its_layers_reached():
    backbone = mobile_net()
    encoder = build_encoder(backbone, image_size=32, embedding_dim=8)
    images = images_of(3, 32)
    name = "block_3_expand_relu"
    reached = keras.Model(encoder.input, encoder.get_layer(name).output)
    inside = keras.Model(
        backbone.input, [backbone.get_layer(name).output, backbone.output]
    )
    activation, features = inside((images / 255 - MEAN) / STD)
    np.testing.assert_allclose(reached(images), activation, atol=1e-5)
    features = features.numpy().mean(axis=(1, 2))
    kernel, bias = encoder.get_layer("projection").get_weights()
    expected = features @ kernel + bias
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder(images), expected, atol=1e-5)


def test_the_model_keeps_its_own_weights():
    backbone = sequential()
    encoders = [build_encoder(backbone, image_size=8) for _ in range(2)]
    before = backbone.get_weights()
    kernel = encoders[0].get_layer("first").kernel
    kernel.assign(kernel + 1)
    for old, new in zip(before, backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(
        before[0], encoders[1].get_layer("first").kernel
    )


def test_a_model_that_normalizes_itself_gets_the_images_as_they_are():
    backbone = sequential()
    encoder = build_encoder(backbone, image_size=8, normalize=False)
    images = images_of(2, 8)
    pooled = keras.Model(encoder.input, encoder.get_layer("pool").output)
    np.testing.assert_allclose(
        pooled(images), backbone(images.astype("float32")), rtol=1e-6
    )
    np.testing.assert_array_equal(
        encoder(images), encoder(images.astype("float32"))
    )


def test_a_model_of_any_size_with_two_paths_and_a_list_as_input():
    image = keras.Input((None, None, 3))
    left = keras.layers.Conv2D(4, 3, padding="same", name="left")(image)
    right = keras.ops.concatenate([image, image], axis=-1)
    both = keras.layers.Concatenate(name="both")([image, left, right])
    backbone = keras.Model([image], [both])
    encoder = build_encoder(backbone, image_size=6, mean=[0] * 3, std=[1] * 3)
    images = images_of(2, 6)
    reached = keras.Model(encoder.input, encoder.get_layer("both").output)
    np.testing.assert_allclose(
        reached(images), backbone([images / np.float32(255)]), atol=1e-6
    )


def test_it_is_trained_and_saved(tmp_path):
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="first")(image)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Dropout(0.2)(keras.layers.LayerNormalization()(x))
    encoder = build_encoder(keras.Model(image, x), image_size=8)
    images = images_of(4, 8)
    model = tf_instdisc.InstanceDiscrimination(
        encoder, num_instances=4, objective="softmax"
    )
    model.compile(optimizer=keras.optimizers.SGD(0.01))
    before = encoder.get_weights()
    model.fit(images, np.arange(4), batch_size=4, epochs=1, verbose=0)
    moved = [
        np.abs(old - new).max() > 0
        for old, new in zip(before, encoder.get_weights(), strict=True)
        if old.dtype == np.float32
    ]
    # Batch norm's moving statistics too. Its offset comes before another norm.
    assert sum(moved) >= len(moved) - 1
    encoder.save(tmp_path / "encoder.keras")
    loaded = keras.saving.load_model(tmp_path / "encoder.keras")
    np.testing.assert_allclose(loaded(images), encoder(images), atol=1e-6)


class Subclassed(keras.Model):
    def call(self, images):
        return images


def two_outputs():
    image = keras.Input((8, 8, 3))
    return keras.Model(image, [image, image])


def of_name(name):
    image = keras.Input((8, 8, 3))
    return keras.Model(image, keras.layers.ReLU(name=name)(image))


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    (
        (Subclassed, {}, "functional or Sequential.*Subclassed"),
        (lambda: keras.Sequential([keras.layers.ReLU()]), {}, "must be built"),
        (two_outputs, {}, "one output. Received: 2"),
        (lambda: sequential(16), {}, r"\[batch, 8, 8, 3\].*16, 16, 3"),
        (
            lambda: keras.Sequential(
                [keras.Input((8, 8, 3)), keras.layers.Reshape((64, 3))]
            ),
            {},
            "feature map .* or a vector.*None, 64, 3",
        ),
        (lambda: of_name("pool"), {}, "leave the names.*names pool"),
        (sequential, {"width": 32}, "`width` applies only.*width=32"),
        (sequential, {"stem": "cifar"}, "`stem` applies only.*'cifar'"),
        (sequential, {"sync_batch_norm": True}, "sync_batch_norm=True"),
    ),
)
def test_what_cannot_be_a_backbone_is_refused(backbone, options, message):
    with pytest.raises(ValueError, match=message):
        build_encoder(backbone(), image_size=8, **options)
