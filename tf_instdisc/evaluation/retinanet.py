"""A RetinaNet (Lin et al. 2017, arXiv 1708.02002) on a trained encoder.

The model, its losses, targets and anchors come from keras_cv. The pyramid and
the heads are built here, because those of keras_cv 0.9 always have 256
filters. All workarounds for keras_cv 0.9.0 under Keras 3.15 are in this file.
"""

import math
from collections.abc import Sequence

import keras
import keras_cv
from keras import layers

from tf_instdisc.errors import UsageError
from tf_instdisc.evaluation.average_precision import MAX_DETECTIONS
from tf_instdisc.evaluation.detection_protocol import DetectionOptions

BOX_FORMAT = "xyxy"
_STAGES = ("conv1", "conv2", "conv3", "conv4", "conv5")
_SMALLEST_STRIDE = 4
_NUM_LEVELS = 3
_SCALES = [2 ** (i / 3) for i in range(3)]
_ASPECT_RATIOS = [0.5, 1.0, 2.0]
_NUM_ANCHORS = len(_SCALES) * len(_ASPECT_RATIOS)
_NUM_HEAD_LAYERS = 4
# Initial probability of an object in an anchor; see section 4.1.
_PRIOR = 0.01
_SCORE_THRESHOLD = 0.01
_OVERLAP_THRESHOLD = 0.5


def build_retinanet(
    encoder: keras.Model,
    options: DetectionOptions,
    num_classes: int,
    pretrained: bool,
) -> keras_cv.models.RetinaNet:
    """Builds a detector on the layers `conv1` .. `conv5` of an encoder.

    The pyramid uses three feature maps with strides of at least 4, each twice
    the previous one: `conv3` .. `conv5` of a ResNet with the ImageNet stem;
    `conv4`, `conv5` and `conv5` at half size with the CIFAR stem. Initial
    weights follow `keras.utils.set_random_seed`; those of the pyramid and the
    heads are the same with and without `pretrained`.

    Args:
        encoder: A functional model with layers of these names.
        options: The size of the square input, a multiple of the largest
            stride; the filters, the anchors, and what is frozen.
        num_classes: Number of classes, excluding the background.
        pretrained: Whether the layers start from the encoder's weights
            instead of new ones. Only then are layers frozen: those with one of
            the names in `frozen_layers`, or whose names start with one
            followed by `_`, and all batch normalization with
            `frozen_batch_norm`.

    Returns:
        The detector. Its input is RGB in [0, 255] of shape
        `[batch, image_size, image_size, 3]`.

    Raises:
        UsageError: If the encoder has no such feature maps, if `image_size`
            does not fit them, or if a name in `frozen_layers` is unknown.
    """
    backbone, strides = _backbone(encoder, options.image_size, pretrained)
    if pretrained:
        _freeze(backbone, options.frozen_layers, options.frozen_batch_norm)
    anchors = keras_cv.layers.AnchorGenerator(
        bounding_box_format=BOX_FORMAT,
        sizes=[options.anchor_scale * stride for stride in strides],
        scales=_SCALES,
        aspect_ratios=_ASPECT_RATIOS,
        strides=strides,
        clip_boxes=True,
    )
    channels = [
        backbone.get_layer(name).output.shape[-1]
        for name in backbone.pyramid_level_inputs.values()
    ]
    return keras_cv.models.RetinaNet(
        backbone=backbone,
        num_classes=num_classes,
        bounding_box_format=BOX_FORMAT,
        anchor_generator=anchors,
        feature_pyramid=_pyramid(channels, options.head_filters),
        classification_head=_head(
            "classification_head",
            options.head_filters,
            _NUM_ANCHORS * num_classes,
            bias=-math.log((1 - _PRIOR) / _PRIOR),
        ),
        box_head=_head(
            "box_head", options.head_filters, _NUM_ANCHORS * 4, bias=0.0
        ),
        # keras_cv's default suppresses a box in favor of a higher-scoring one
        # of another class, and drops all boxes with a score below 0.5.
        prediction_decoder=keras_cv.layers.MultiClassNonMaxSuppression(
            BOX_FORMAT,
            from_logits=True,
            iou_threshold=_OVERLAP_THRESHOLD,
            confidence_threshold=_SCORE_THRESHOLD,
            max_detections=MAX_DETECTIONS,
            max_detections_per_class=MAX_DETECTIONS,
        ),
    )


def _backbone(
    encoder: keras.Model, image_size: int, pretrained: bool
) -> tuple[keras.Model, list[int]]:
    """Copies the encoder's stages at this size; also returns all strides."""
    known = {layer.name for layer in encoder.layers}
    stages = [name for name in _STAGES if name in known]
    if not stages:
        raise UsageError(
            "The encoder must have layers named conv1 .. conv5. Received: "
            f"{', '.join(layer.name for layer in encoder.layers)}"
        )
    features = keras.Model(
        encoder.input, [encoder.get_layer(name).output for name in stages]
    )
    image = keras.Input((image_size, image_size, 3), name="images")
    copy = keras.models.clone_model(features, input_tensors=image)
    if pretrained:
        copy.set_weights(features.get_weights())

    # The deepest feature map of each stride.
    maps: dict[float, tuple[str, keras.KerasTensor]] = {}
    for name in stages:
        output = copy.get_layer(name).output
        stride = image_size / output.shape[1]
        if stride >= _SMALLEST_STRIDE:
            maps[stride] = (name, output)
    maps = dict(sorted(maps.items())[-_NUM_LEVELS:])
    while 0 < len(maps) < _NUM_LEVELS:
        stride = max(maps)
        name = f"half_of_{maps[stride][0]}"
        output = layers.MaxPooling2D(2, name=name)(maps[stride][1])
        maps[image_size / output.shape[1]] = (name, output)
    strides = list(maps)
    doubled = [strides[0] * 2**i for i in range(_NUM_LEVELS)] if maps else []
    if strides != doubled or not strides or strides[0] != int(strides[0]):
        raise UsageError(
            "`image_size` must give feature maps whose strides double, from "
            f"{_SMALLEST_STRIDE} on; a multiple of 32 does so for a ResNet. "
            f"Received: image_size={image_size}, strides {strides} of "
            f"{encoder.name}"
        )
    backbone = keras_cv.models.Backbone(
        inputs=image, outputs=[output for _, output in maps.values()]
    )
    backbone.pyramid_level_inputs = {
        f"P{level}": name
        for level, (name, _) in zip((3, 4, 5), maps.values(), strict=True)
    }
    return backbone, [int(strides[0]) * 2**i for i in range(5)]


def _freeze(
    backbone: keras.Model, frozen_layers: Sequence[str], frozen_batch_norm: bool
) -> None:
    for prefix in frozen_layers:
        frozen = [
            layer
            for layer in backbone.layers
            if layer.name == prefix or layer.name.startswith(f"{prefix}_")
        ]
        if not frozen:
            raise UsageError(
                "`frozen_layers` must name layers of the encoder, or how "
                f"they begin. Received: {prefix!r}, of none of "
                f"{', '.join(layer.name for layer in backbone.layers)}"
            )
        for layer in frozen:
            layer.trainable = False
    for layer in backbone.layers:
        is_norm = isinstance(layer, layers.BatchNormalization)
        if is_norm and frozen_batch_norm:
            layer.trainable = False


def _pyramid(channels: Sequence[int], filters: int) -> keras.Model:
    """Builds a feature pyramid network from P3 .. P5 to P3 .. P7."""
    inputs = {
        f"P{level}": keras.Input((None, None, count), name=f"P{level}")
        for level, count in zip((3, 4, 5), channels, strict=True)
    }

    def conv(
        x: keras.KerasTensor, name: str, size: int, strides: int = 1
    ) -> keras.KerasTensor:
        layer = layers.Conv2D(filters, size, strides, "same", name=name)
        return layer(x)

    merged, x = {}, None
    for level in (5, 4, 3):
        lateral = conv(inputs[f"P{level}"], f"p{level}_lateral", 1)
        if x is not None:
            upsampled = layers.UpSampling2D(2, name=f"p{level}_up")(x)
            lateral = layers.Add(name=f"p{level}_add")([lateral, upsampled])
        x = merged[level] = lateral
    outputs = [conv(merged[level], f"p{level}", 3) for level in (3, 4, 5)]
    p6 = conv(inputs["P5"], "p6", 3, strides=2)
    p7 = conv(layers.ReLU(name="p6_relu")(p6), "p7", 3, strides=2)
    return keras.Model(inputs, [*outputs, p6, p7], name="pyramid")


def _head(
    name: str, filters: int, outputs: int, bias: float
) -> keras.Sequential:
    """Builds four convolutions and the prediction for all levels."""
    # The paper's standard deviation of 0.01 is too small for fewer filters.
    hidden = [
        layers.Conv2D(
            filters,
            3,
            padding="same",
            activation="relu",
            kernel_initializer="he_normal",
            name=f"{name}_conv{i + 1}",
        )
        for i in range(_NUM_HEAD_LAYERS)
    ]
    prediction = layers.Conv2D(
        outputs,
        3,
        padding="same",
        kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
        bias_initializer=keras.initializers.Constant(bias),
        # With mixed precision, the predictions remain float32.
        dtype="float32",
        name=f"{name}_prediction",
    )
    return keras.Sequential(
        [keras.Input((None, None, filters)), *hidden, prediction], name=name
    )
