"""How many numbers an encoder holds, counted without building it.

It imports neither TensorFlow nor Keras.
"""

import dataclasses

from tf_instdisc import choices


@dataclasses.dataclass(frozen=True)
class EncoderSizes:
    """Numbers of an encoder.

    Attributes:
        weights: That are trained.
        statistics: Moving statistics of batch norm.
        activations: That a training step holds for each image at its peak:
            what is kept until its gradients need it, and twice the largest
            map, for gradients. Within a quarter of what TensorFlow takes.
    """

    weights: int
    statistics: int
    activations: int


@dataclasses.dataclass
class _Count:
    weights: int = 0
    statistics: int = 0
    activations: int = 0
    largest: int = 0

    def conv(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int = 1,
        side: int = 1,
        activated: bool = True,
    ) -> None:
        """A convolution or dense layer without bias, and its batch norm.

        Kept are its output, for the batch norm, and that of a ReLU.
        """
        self.weights += inputs * outputs * kernel_size**2 + 2 * outputs
        self.statistics += 2 * outputs
        self.keep(side, (1 + activated) * outputs)
        self.largest = max(self.largest, side**2 * outputs)

    def keep(self, side: int, channels: int) -> None:
        """A map that a layer without weights makes."""
        self.activations += side**2 * channels


def encoder_sizes(
    encoder: str,
    width: int,
    stem: str,
    embedding_dim: int,
    image_size: int,
    stem_width: int | None = None,
) -> EncoderSizes:
    """Counts weights, statistics and activations of an encoder.

    Args:
        encoder: A key of `choices.BACKBONES`.
        width: As `build_encoder` has it, and so the following.
        stem: `"imagenet"` or `"cifar"`.
        embedding_dim: Length of the embedding.
        image_size: Side of its input, in pixels.
        stem_width: Of a ResNet.
    """
    count = _Count()
    count.keep(image_size, 2 * 3)  # The image, and scaled.
    if encoder == "alexnet":
        features = _alexnet(count, width, stem, image_size)
    elif encoder == "vgg16":
        features = _vgg16(count, width, stem, image_size)
    elif encoder == "vit_small":
        features = _vit(count, width, stem, image_size)
    else:
        features = _resnet(count, encoder, width, stem, image_size, stem_width)
    return EncoderSizes(
        count.weights + (features + 1) * embedding_dim,
        count.statistics,
        count.activations + 2 * count.largest + features + 2 * embedding_dim,
    )


def _resnet(count, encoder, width, stem, side, stem_width):
    block, stage_sizes = choices.RESNET_STAGES[encoder]
    channels = stem_width or width
    if stem == "imagenet":
        count.keep(side + 6, 3)  # Padded.
        side = -(-side // 2)
        count.conv(3, channels, 7, side)
        count.keep(side + 2, channels)
        side = -(-side // 2)
        count.keep(side, channels)
    else:
        count.conv(3, channels, 3, side)
    for stage, num_blocks in enumerate(stage_sizes):
        filters = width * 2**stage
        outputs = filters * (4 if block == "bottleneck" else 1)
        for index in range(num_blocks):
            strided = stage > 0 and index == 0
            before, side = side, -(-side // 2) if strided else side
            if strided:
                count.keep(side, channels)  # Every other pixel.
            if strided or channels != outputs:
                count.conv(channels, outputs, 1, side, activated=False)
            if block == "bottleneck":
                count.conv(channels, filters, 1, before)
                if strided:
                    count.keep(before + 2, filters)
                count.conv(filters, filters, 3, side)
                count.conv(filters, outputs, 1, side)
            else:
                if strided:
                    count.keep(before + 2, channels)
                count.conv(channels, filters, 3, side)
                count.conv(filters, filters, 3, side)
            channels = outputs
    return channels


def _alexnet(count, width, stem, side):
    is_large = stem == "imagenet"
    if is_large:
        count.keep(side + 4, 3)
        side = (side + 4 - 11) // 4 + 1
    kernel_sizes = (11 if is_large else 3, 5, 3, 3, 3)
    channels = 3
    widths = zip(choices.ALEXNET_WIDTHS, kernel_sizes, strict=True)
    for index, (filters, size) in enumerate(widths, start=1):
        count.conv(channels, width * filters, size, side)
        channels = width * filters
        if index in (1, 2, 5):
            side = (side - 3) // 2 + 1
            count.keep(side, channels)
    return _fully_connected(count, side**2 * channels, width)


def _vgg16(count, width, stem, side):
    channels = 3
    for block, (filters, convs) in enumerate(choices.VGG16_STAGES, start=1):
        for _ in range(convs):
            count.conv(channels, width * filters, 3, side)
            channels = width * filters
        if block > 1 or stem == "imagenet":
            side //= 2
            count.keep(side, channels)
    return _fully_connected(count, side**2 * channels, width)


def _fully_connected(count, features, width):
    units = choices.FULLY_CONNECTED * width
    count.conv(features, units)
    count.conv(units, units)
    return units


def _vit(count, width, stem, image_size):
    patch = choices.PATCH_SIZES[stem]
    heads, blocks = choices.VIT_HEADS, choices.VIT_BLOCKS
    dim = heads * width
    tokens = (image_size // patch) ** 2
    count.weights += (patch**2 * 3 + tokens) * dim
    attention = 4 * (dim + 1) * dim
    mlp = (dim + 1) * 4 * dim + (4 * dim + 1) * dim
    norms = 2 * 2 * dim
    count.weights += blocks * (attention + mlp + norms) + 2 * dim
    # Of a token: two norms, queries, keys, values and what attention makes of
    # them, two sums, and the hidden layer before and after its GELU. Of two
    # tokens in each head: scores and their softmax.
    count.activations += tokens * (patch**2 * 3 + 2 * dim)
    count.activations += blocks * tokens * (2 + 5 + 2 + 3 * 4) * dim
    count.activations += blocks * heads * 2 * tokens**2
    return dim
