"""How many numbers an encoder holds, counted without building it.

It imports neither TensorFlow nor Keras.
"""

import dataclasses

from tf_instdisc import choices


@dataclasses.dataclass
class _Count:
    weights: int = 0
    statistics: int = 0

    def conv(self, inputs: int, outputs: int, kernel_size: int = 1) -> None:
        """A convolution or dense layer without bias, and its batch norm."""
        self.weights += inputs * outputs * kernel_size**2 + 2 * outputs
        self.statistics += 2 * outputs


def encoder_sizes(
    encoder: str, width: int, stem: str, embedding_dim: int, image_size: int
) -> tuple[int, int]:
    """Trained weights of an encoder, and moving statistics of batch norm."""
    count = _Count()
    if encoder == "alexnet":
        features = _alexnet(count, width, stem, image_size)
    elif encoder == "vgg16":
        features = _vgg16(count, width, stem, image_size)
    elif encoder == "vit_small":
        features = _vit(count, width, stem, image_size)
    else:
        features = _resnet(count, encoder, width, stem)
    return count.weights + (features + 1) * embedding_dim, count.statistics


def _resnet(count, encoder, width, stem):
    block, stage_sizes = choices.RESNET_STAGES[encoder]
    count.conv(3, width, 7 if stem == "imagenet" else 3)
    channels = width
    for stage, num_blocks in enumerate(stage_sizes):
        filters = width * 2**stage
        outputs = filters * (4 if block == "bottleneck" else 1)
        for index in range(num_blocks):
            strided = stage > 0 and index == 0
            if strided or channels != outputs:
                count.conv(channels, outputs)
            if block == "bottleneck":
                count.conv(channels, filters)
                count.conv(filters, filters, 3)
                count.conv(filters, outputs)
            else:
                count.conv(channels, filters, 3)
                count.conv(filters, filters, 3)
            channels = outputs
    return channels


def _alexnet(count, width, stem, image_size):
    is_large = stem == "imagenet"
    side = (image_size + 4 - 11) // 4 + 1 if is_large else image_size
    kernel_sizes = (11 if is_large else 3, 5, 3, 3, 3)
    channels = 3
    for filters, size in zip(choices.ALEXNET_WIDTHS, kernel_sizes, strict=True):
        count.conv(channels, width * filters, size)
        channels = width * filters
    for _ in range(3):
        side = (side - 3) // 2 + 1
    return _fully_connected(count, side**2 * channels, width)


def _vgg16(count, width, stem, image_size):
    channels = 3
    for filters, convs in choices.VGG16_STAGES:
        for _ in range(convs):
            count.conv(channels, width * filters, 3)
            channels = width * filters
    side = image_size // 2 ** (5 if stem == "imagenet" else 4)
    return _fully_connected(count, side**2 * channels, width)


def _fully_connected(count, features, width):
    units = choices.FULLY_CONNECTED * width
    count.conv(features, units)
    count.conv(units, units)
    return units


def _vit(count, width, stem, image_size):
    patch = choices.PATCH_SIZES[stem]
    dim = choices.VIT_HEADS * width
    count.weights += (patch**2 * 3 + (image_size // patch) ** 2) * dim
    attention = 4 * (dim + 1) * dim
    mlp = (dim + 1) * 4 * dim + (4 * dim + 1) * dim
    norms = 2 * 2 * dim
    count.weights += choices.VIT_BLOCKS * (attention + mlp + norms) + 2 * dim
    return dim
