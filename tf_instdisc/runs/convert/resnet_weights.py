"""Converts weights of PyTorch's ResNets: other names, other axes."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tf_instdisc.method.encoders import build_encoder
from tf_instdisc.method.encoders.resnet import STAGES, block_convs
from tf_instdisc.runs.convert.records import CheckpointError, Tensor
from tf_instdisc.text import UNTRUSTED_LIMIT, shown

_STEMS = {7: "imagenet", 3: "cifar"}
_NORM = ("weight", "bias", "running_mean", "running_var")
_MARKER = "layer1.0.conv1.weight"

# The normalization of the authors' cifar.py.
_CIFAR = {"mean": "cifar10", "std": "cifar10"}
_CIFAR_NAMES = ((r"\.shortcut\.", ".downsample."), (r"^linear\.", "fc."))

# Parts of names that identify networks which cannot be converted.
_OTHERS = (
    (
        r"l_to_ab\.|ab_to_l\.",
        "two networks of CMC, one for the lightness and one for the colors of "
        "an image (L and ab), but an encoder here takes RGB. CMC's InsDis and "
        "MoCo checkpoints can be converted",
    ),
    (
        r"conv_block_1\.",
        "one half of CMC's AlexNet, which takes L or ab instead of RGB",
    ),
    (
        r"features\.(module\.)?\d",
        "an AlexNet or VGG, but only ResNets can be converted",
    ),
    (r"patch_embed\.|blocks\.0\.", "a vision transformer"),
    (r"encoder_q\..*layer1\.", "MoCo's own code: two encoders and a queue"),
)


def build_from(
    weights: Mapping[str, Tensor],
    read: Callable[[Tensor], np.ndarray],
    image_size: int | None,
) -> tuple[keras.Model, dict]:
    """Builds the encoder that a state dictionary belongs to.

    Args:
        weights: Tensors by torchvision's names (`layer1.0.conv1.weight`; `fc`
            is the projection) or by those of the authors' CIFAR networks
            (`shortcut`, `linear`), with or without a common prefix.
        read: Returns a tensor's numbers.
        image_size: Side of the input, in pixels; the weights fit any size. By
            default 32 for the authors' CIFAR networks, 224 for others.

    Returns:
        The encoder, and the arguments of `build_encoder` that created it.

    Raises:
        CheckpointError: If the weights belong to another network, or a weight
            is missing, left over, of the wrong shape or not finite.
    """
    weights = _without_prefix(weights)
    is_cifars = "linear.weight" in weights and "fc.weight" not in weights
    if is_cifars:
        weights = {_torchvision_name(name): weights[name] for name in weights}
    config = _describe(weights)
    # Checked before anything as large as the network is created.
    expected = _expected_shapes(config)
    _require_shapes(weights, expected, config["backbone"])
    values = {name: _finite(name, read(weights[name])) for name in expected}
    if is_cifars:
        config |= _CIFAR
    config["image_size"] = image_size or (32 if is_cifars else 224)
    encoder = build_encoder(**config)
    for layer in encoder.layers:
        if layer.weights:
            names = _torch_names(layer.name)
            layer.set_weights(
                [_in_keras_order(values.pop(name)) for name in names]
            )
    return encoder, config


def _without_prefix(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = [name for name in weights if name.endswith(_MARKER)]
    for pattern, what in _OTHERS:
        if any(re.search(pattern, name) for name in weights):
            raise CheckpointError(f"The checkpoint is of {what}.")
    if len(found) != 1:
        some = shown(", ".join(list(weights)[:5]), UNTRUSTED_LIMIT)
        raise CheckpointError(
            "The checkpoint must hold one ResNet with torchvision's names. "
            f"Received: {len(found)} weights that end in {_MARKER}, among "
            f"{some}"
        )
    prefix = found[0].removesuffix(_MARKER)
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def _torchvision_name(name: str) -> str:
    for theirs, torchvisions in _CIFAR_NAMES:
        name = re.sub(theirs, torchvisions, name)
    return name


def _describe(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Derives the arguments of `build_encoder` from names and shapes."""
    for name, rank in (("conv1.weight", 4), (_MARKER, 4), ("fc.weight", 2)):
        if name not in weights or len(weights[name].shape) != rank:
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
        name for name, stages in STAGES.items() if stages == (block, sizes)
    ]
    stem_width, channels, kernel_size, _ = weights["conv1.weight"].shape
    if not names or kernel_size not in _STEMS:
        raise CheckpointError(
            "The checkpoint must hold one of "
            f"{', '.join(STAGES)}. Received: {block} blocks "
            f"{sizes} after a convolution of side {kernel_size}"
        )
    if channels != 3:
        raise CheckpointError(
            f"The checkpoint's network takes images of {channels} channels, "
            "such as L or ab; an encoder here takes RGB."
        )
    width, embedding_dim = (
        weights[name].shape[0] for name in (_MARKER, "fc.weight")
    )
    if min(width, stem_width, embedding_dim) < 1:
        raise CheckpointError("The checkpoint is damaged: empty weights.")
    config: dict[str, Any] = {
        "backbone": names[0],
        "embedding_dim": embedding_dim,
        "width": width,
        "stem": _STEMS[kernel_size],
    }
    if stem_width != width:
        config["stem_width"] = stem_width
    return config


def _expected_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of all weights by torchvision's names and axes."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(conv: str, norm: str, inputs: int, outputs: int, size: int) -> None:
        shapes[f"{conv}.weight"] = (outputs, inputs, size, size)
        for part in _NORM:
            shapes[f"{norm}.{part}"] = (outputs,)

    block, stage_sizes = STAGES[config["backbone"]]
    width = config["width"]
    channels = config.get("stem_width", width)
    add("conv1", "bn1", 3, channels, 7 if config["stem"] == "imagenet" else 3)
    for stage, num_blocks in enumerate(stage_sizes):
        convs = block_convs(block, width * 2**stage, strides=1)
        outputs = convs[-1][0]
        for index in range(num_blocks):
            name = f"layer{stage + 1}.{index}"
            if channels != outputs or (stage and not index):
                add(
                    f"{name}.downsample.0",
                    f"{name}.downsample.1",
                    channels,
                    outputs,
                    1,
                )
            for number, (made, size, _) in enumerate(convs, start=1):
                add(
                    f"{name}.conv{number}",
                    f"{name}.bn{number}",
                    channels,
                    made,
                    size,
                )
                channels = made
    shapes["fc.weight"] = (config["embedding_dim"], channels)
    shapes["fc.bias"] = (config["embedding_dim"],)
    return shapes


def _require_shapes(
    weights: Mapping[str, Tensor],
    expected: Mapping[str, tuple[int, ...]],
    backbone: str,
) -> None:
    for name, shape in expected.items():
        if name not in weights:
            raise CheckpointError(f"The checkpoint has no {name}.")
        if weights[name].shape != shape:
            raise CheckpointError(
                f"{name} must be of shape {shape}. "
                f"Received: {weights[name].shape}"
            )
    left = sorted(
        name
        for name in weights
        if name not in expected and not name.endswith("num_batches_tracked")
    )
    if left:
        some = shown(", ".join(left[:5]), UNTRUSTED_LIMIT)
        raise CheckpointError(
            f"The checkpoint is of another network than {backbone}: "
            f"{some} belong to nothing in it."
        )


def _finite(name: str, value: np.ndarray) -> np.ndarray:
    value = value.astype(np.float32)
    if not np.isfinite(value).all():
        raise CheckpointError(f"{name} holds NaN or infinity.")
    return value


def _torch_names(layer_name: str) -> tuple[str, ...]:
    if layer_name == "projection":
        return "fc.weight", "fc.bias"
    stem = re.fullmatch(r"conv1_(conv|bn)", layer_name)
    if stem:
        torch_name = {"conv": "conv1", "bn": "bn1"}[stem[1]]
    else:
        inner = re.fullmatch(r"conv(\d)_block(\d+)_(\d)_(conv|bn)", layer_name)
        if inner is None:
            raise ValueError(f"Unknown layer. Received: {layer_name!r}")
        stage, block, number, kind = inner.groups()
        part = f"{kind}{number}"
        if number == "0":
            part = {"conv": "downsample.0", "bn": "downsample.1"}[kind]
        torch_name = f"layer{int(stage) - 1}.{int(block) - 1}.{part}"
    if layer_name.endswith("_conv"):
        return (f"{torch_name}.weight",)
    return tuple(f"{torch_name}.{name}" for name in _NORM)


def _in_keras_order(value: np.ndarray) -> np.ndarray:
    """Transposes a weight from PyTorch's to Keras' order of axes."""
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    return value.T
