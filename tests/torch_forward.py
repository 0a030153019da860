"""The authors' ResNets in NumPy, from a state dictionary of PyTorch."""

import numpy as np

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2023, 0.1994, 0.2010)


def conv(x, weight, stride=1):
    """Cross-correlation of `[batch, channels, height, width]`, zero-padded."""
    size = weight.shape[-1]
    pad = size // 2
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (2, 3))
    windows = windows[:, :, ::stride, ::stride]
    return np.einsum("bchwij,ocij->bohw", windows, weight)


def norm(x, state, name):
    weight, bias, mean, var = (
        state[f"{name}.{part}"].astype(float)[:, None, None]
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * weight + bias


def max_pool(x):
    """3 x 3, stride 2, padded by a pixel."""
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
    return windows[:, :, ::2, ::2].max(axis=(-2, -1))


def embeddings(state, images, mean, std, shortcut, linear, stem="cifar"):
    """What the network gives for uint8 images `[batch, size, size, 3]`.

    Args:
        state: Weights by name.
        images: The images.
        mean: Of the channels, as fractions of 255.
        std: Likewise.
        shortcut: The name of the shortcut of a block.
        linear: The name of the projection.
        stem: `"cifar"` or `"imagenet"`.
    """
    x = (images / 255 - np.array(mean)) / np.array(std)
    x = x.transpose(0, 3, 1, 2)
    x = conv(x, state["conv1.weight"], 1 if stem == "cifar" else 2)
    x = np.maximum(norm(x, state, "bn1"), 0)
    if stem == "imagenet":
        x = max_pool(x)
    for stage in range(1, 5):
        index = 0
        while f"layer{stage}.{index}.conv1.weight" in state:
            stride = 2 if stage > 1 and index == 0 else 1
            x = _block(x, state, f"layer{stage}.{index}", stride, shortcut)
            index += 1
    x = x.mean(axis=(2, 3))
    x = x @ state[f"{linear}.weight"].T + state[f"{linear}.bias"]
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _block(x, state, name, stride, shortcut):
    is_bottleneck = f"{name}.conv3.weight" in state
    # The stride is that of the 3 x 3 convolution.
    strides = (1, stride, 1) if is_bottleneck else (stride, 1)
    y = x
    for number, step in enumerate(strides, start=1):
        y = conv(y, state[f"{name}.conv{number}.weight"], step)
        y = norm(y, state, f"{name}.bn{number}")
        if number < len(strides):
            y = np.maximum(y, 0)
    if f"{name}.{shortcut}.0.weight" in state:
        x = conv(x, state[f"{name}.{shortcut}.0.weight"], stride)
        x = norm(x, state, f"{name}.{shortcut}.1")
    return np.maximum(x + y, 0)


def random_state(
    block, sizes, width, stem_width, kernel, shortcut, linear, dim=8
):
    """Weights of a ResNet, drawn so that the output depends on the image."""
    rng = np.random.default_rng(0)
    state = {}

    def add(conv_name, norm_name, inputs, outputs, size):
        scale = (2 / (inputs * size * size)) ** 0.5
        weight = rng.normal(scale=scale, size=(outputs, inputs, size, size))
        state[f"{conv_name}.weight"] = weight.astype(np.float32)
        for part, low, high in (
            ("weight", 0.5, 1.0),
            ("bias", -0.1, 0.1),
            ("running_mean", -0.1, 0.1),
            ("running_var", 0.5, 1.5),
        ):
            value = rng.uniform(low, high, outputs).astype(np.float32)
            state[f"{norm_name}.{part}"] = value
        state[f"{norm_name}.num_batches_tracked"] = np.array(7)

    add("conv1", "bn1", 3, stem_width, kernel)
    channels = stem_width
    expansion = 4 if block == "bottleneck" else 1
    for stage, count in enumerate(sizes):
        filters = width * 2**stage
        for index in range(count):
            name = f"layer{stage + 1}.{index}"
            convs = (
                ((filters, 1), (filters, 3), (filters * 4, 1))
                if expansion == 4
                else ((filters, 3), (filters, 3))
            )
            strided = stage > 0 and index == 0
            if strided or channels != filters * expansion:
                add(
                    f"{name}.{shortcut}.0",
                    f"{name}.{shortcut}.1",
                    channels,
                    filters * expansion,
                    1,
                )
            for number, (outputs, size) in enumerate(convs, start=1):
                add(
                    f"{name}.conv{number}",
                    f"{name}.bn{number}",
                    channels,
                    outputs,
                    size,
                )
                channels = outputs
    weight = rng.normal(size=(dim, channels)) / channels**0.5
    state[f"{linear}.weight"] = weight.astype(np.float32)
    state[f"{linear}.bias"] = rng.normal(size=dim).astype(np.float32) / 9
    return state
