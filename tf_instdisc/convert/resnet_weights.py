"""Weights of PyTorch's ResNets in ours: other names, other axes."""

import re
from collections.abc import Mapping

import keras
import numpy as np

from tf_instdisc import choices
from tf_instdisc.convert.records import CheckpointError
from tf_instdisc.encoders import build_encoder
from tf_instdisc.errors import UsageError

_STEMS = {7: "imagenet", 3: "cifar"}
_NORM = ("weight", "bias", "running_mean", "running_var")


def build_from(
    weights: Mapping[str, np.ndarray], image_size: int
) -> tuple[keras.Model, dict]:
    """Builds the encoder that a state dictionary belongs to.

    Args:
        weights: By torchvision's names (`layer1.0.conv1.weight`), with or
            without a prefix that all share; `fc` is the projection.
        image_size: Side of the input, in pixels; the weights fit any.

    Returns:
        The encoder, and the arguments of `build_encoder` that made it.

    Raises:
        CheckpointError: If the weights are of another network, or one is
            missing, left over, of another shape or not finite.
    """
    weights = _without_prefix(weights)
    config = _describe(weights)
    encoder = build_encoder(image_size=image_size, **config)
    left = {name for name in weights if not name.endswith("batches_tracked")}
    for layer in encoder.layers:
        if not layer.weights:
            continue
        names = _torch_names(layer.name)
        values = []
        for name, weight in zip(names, layer.weights, strict=True):
            if name not in weights:
                raise CheckpointError(f"The checkpoint has no {name}.")
            value = _turned(weights[name].astype(np.float32))
            if value.shape != tuple(weight.shape):
                raise CheckpointError(
                    f"{name} must be of shape {tuple(weight.shape)}, axes as "
                    f"in Keras. Received: {value.shape}"
                )
            if not np.isfinite(value).all():
                raise CheckpointError(f"{name} holds NaN or infinity.")
            values.append(value)
        layer.set_weights(values)
        left -= set(names)
    if left:
        raise CheckpointError(
            f"The checkpoint is of another network than {config['backbone']}: "
            f"{', '.join(sorted(left)[:5])} belong to nothing in it."
        )
    return encoder, config


def _without_prefix(weights):
    marker = "layer1.0.conv1.weight"
    found = [name for name in weights if name.endswith(marker)]
    if len(found) != 1:
        raise CheckpointError(
            "The checkpoint must hold one ResNet with torchvision's names. "
            f"Received: {len(found)} weights that end in {marker}, among "
            f"{', '.join(list(weights)[:5])}"
        )
    prefix = found[0].removesuffix(marker)
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def _describe(weights):
    """Arguments of `build_encoder`, from names and shapes."""
    for name, rank in (
        ("conv1.weight", 4),
        ("layer1.0.conv1.weight", 4),
        ("fc.weight", 2),
    ):
        if name not in weights or weights[name].ndim != rank:
            raise CheckpointError(
                f"The checkpoint must hold {name} with {rank} axes."
            )
    block = "bottleneck" if "layer1.0.conv3.weight" in weights else "basic"
    sizes = tuple(
        sum(
            bool(re.fullmatch(rf"layer{stage}\.\d+\.conv1\.weight", name))
            for name in weights
        )
        for stage in range(1, 5)
    )
    names = [
        name
        for name, stages in choices.RESNET_STAGES.items()
        if stages == (block, sizes)
    ]
    width, _, kernel_size, _ = weights["conv1.weight"].shape
    stage_width = len(weights["layer1.0.conv1.weight"])
    if not names or kernel_size not in _STEMS or stage_width != width:
        raise CheckpointError(
            "The checkpoint must hold one of "
            f"{', '.join(choices.RESNET_STAGES)}. Received: {block} blocks "
            f"{sizes}, {width} filters of side {kernel_size} first, then "
            f"{stage_width}"
        )
    return {
        "backbone": names[0],
        "embedding_dim": len(weights["fc.weight"]),
        "width": width,
        "stem": _STEMS[kernel_size],
    }


def _torch_names(layer_name):
    if layer_name == "projection":
        return "fc.weight", "fc.bias"
    stem = re.fullmatch(r"conv1_(conv|bn)", layer_name)
    if stem:
        torch_name = {"conv": "conv1", "bn": "bn1"}[stem[1]]
    else:
        inner = re.fullmatch(r"conv(\d)_block(\d+)_(\d)_(conv|bn)", layer_name)
        if inner is None:
            raise UsageError(f"Unknown layer. Received: {layer_name!r}")
        stage, block, number, kind = inner.groups()
        part = f"{kind}{number}"
        if number == "0":
            part = {"conv": "downsample.0", "bn": "downsample.1"}[kind]
        torch_name = f"layer{int(stage) - 1}.{int(block) - 1}.{part}"
    if layer_name.endswith("_conv"):
        return (f"{torch_name}.weight",)
    return tuple(f"{torch_name}.{name}" for name in _NORM)


def _turned(value):
    """PyTorch's axes (out, in, height, width) in Keras' order."""
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    return value.T
