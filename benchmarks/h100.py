"""Calculates a lower bound for each part of a training step on one H100.

The step is that of a ResNet-50 with batch size 256 and n = 1,281,167. The bound
is the bytes divided by the memory bandwidth or the operations divided by the
arithmetic throughput, whichever is longer. No kernel can be faster. Real
kernels are slower, and launching one takes a few microseconds.

The source of the speeds is the NVIDIA H100 Tensor Core GPU data sheet (SXM,
without sparsity).
"""

import dataclasses

from benchmarks import timing

MEMORY = 3.35e12  # bytes/s, HBM3
HOST_LINK = 64e9  # bytes/s each way, PCIe 5
FLOPS = {"float32": 67e12, "tf32": 494.7e12, "bfloat16": 989.4e12}
_BYTES = {"float32": 4, "tf32": 4, "bfloat16": 2}


@dataclasses.dataclass(frozen=True)
class Part:
    """One part of a step.

    Attributes:
        name: Description of the part.
        num_bytes: Bytes that are read and written in the memory of the GPU.
        operations: Number of multiplications and additions.
        precision: Precision of the operations, a key of `FLOPS`.
    """

    name: str
    num_bytes: float
    operations: float
    precision: str

    @property
    def memory_seconds(self) -> float:
        """The time of reading and writing."""
        return self.num_bytes / MEMORY

    @property
    def arithmetic_seconds(self) -> float:
        """The time of the operations."""
        return self.operations / FLOPS[self.precision]

    @property
    def seconds(self) -> float:
        """The lower bound, which is the longer of the two times."""
        return max(self.memory_seconds, self.arithmetic_seconds)

    @property
    def bound_by(self) -> str:
        """The resource that limits the part."""
        by_memory = self.memory_seconds > self.arithmetic_seconds
        return "memory" if by_memory else "arithmetic"


@dataclasses.dataclass(frozen=True)
class Layers:
    """Sums over the layers of an encoder, for one image.

    Attributes:
        multiply_adds: Multiply-adds of convolutions and dense layers in the
            forward pass.
        first_multiply_adds: Multiply-adds of the first layer, whose input needs
            no gradient.
        conv_inputs: Numbers that convolutions read.
        conv_outputs: Numbers that convolutions write, all of which pass through
            batch normalization.
        joined: Numbers that the additions of shortcuts write.
        weights: Trainable weights of the whole encoder.
    """

    multiply_adds: int
    first_multiply_adds: int
    conv_inputs: int
    conv_outputs: int
    joined: int
    weights: int


def count_layers(encoder) -> Layers:
    """Counts the layers of a Keras encoder."""
    sums = dict.fromkeys(
        ("multiply_adds", "conv_inputs", "conv_outputs", "joined"), 0
    )
    first = 0
    for layer in encoder.layers:
        kind = type(layer).__name__
        if kind not in ("Conv2D", "Dense", "Add"):
            continue
        outputs = _size(layer.output)
        if kind == "Add":
            sums["joined"] += outputs
            continue
        # Each output is a sum over all axes of the kernel except the last.
        *summed, _ = layer.kernel.shape
        multiply_adds = outputs
        for side in summed:
            multiply_adds *= side
        first = first or multiply_adds
        sums["multiply_adds"] += multiply_adds
        if kind == "Conv2D":
            sums["conv_inputs"] += _size(layer.input)
            sums["conv_outputs"] += outputs
    weights = sum(_size(w, 0) for w in encoder.trainable_weights)
    return Layers(first_multiply_adds=first, weights=weights, **sums)


def _size(tensor, first_axis=1):
    size = 1
    for side in tensor.shape[first_axis:]:
        size *= side
    return size


def encoder_parts(layers: Layers, batch: int, precision: str) -> list[Part]:
    """Counts the forward and backward passes and SGD with momentum.

    The kernels are those of cuDNN. In the forward pass, a convolution reads its
    input and writes its output. Batch normalization reads this output twice
    (for the statistics, and for the result fused with ReLU and the addition of
    the shortcut) and writes it once. In the backward pass, batch normalization
    reads its input and the gradient twice and writes one gradient. A
    convolution reads the gradient twice (for its weights and for its input) and
    its input once, and writes the gradient of its input. Weights are counted
    only in SGD.
    """
    item = _BYTES[precision]
    inputs = layers.conv_inputs * batch * item
    outputs = layers.conv_outputs * batch * item
    joined = layers.joined * batch * item
    forward = 2 * layers.multiply_adds * batch
    backward = 2 * forward - 2 * layers.first_multiply_adds * batch
    return [
        Part("convolutions, forward", inputs + outputs, forward, precision),
        # The shortcut is read once more.
        Part("batch norm, ReLU, shortcut", 3 * outputs + joined, 0, precision),
        Part(
            "convolutions, backward",
            2 * inputs + 2 * outputs,
            backward,
            precision,
        ),
        # The gradients of both branches are read and their sum is written.
        Part(
            "batch norm, ReLU, shortcut, backward",
            5 * outputs + 3 * joined,
            0,
            precision,
        ),
        # Weight, gradient and momentum are read, two are written.
        Part("SGD", 5 * 4 * layers.weights, 4 * layers.weights, "float32"),
    ]


def head_parts(
    batch: int, num_instances: int, num_negatives: int, dim: int = 128
) -> list[Part]:
    """Counts the loss and the gradient of each kind of head, in float32.

    There is one product for the logits and one for the gradient. Intermediate
    results pass through memory, except those of the streamed softmax, whose
    chunks of logits stay in the cache of 50 MB.
    """
    row = 4 * dim
    logits = 4 * batch * num_negatives

    def operations(rows):
        return 2 * 2 * batch * rows * dim

    def part(name, num_bytes, count):
        return Part(name, num_bytes, count, "float32")

    return [
        part(
            "NCE, shared negatives",
            # Rows are gathered (read and written) and read by both products.
            # The logits and their gradient are written and read.
            4 * num_negatives * row + 4 * logits,
            operations(num_negatives),
        ),
        part(
            "NCE, negatives of each example",
            4 * batch * num_negatives * row + 4 * logits,
            operations(num_negatives),
        ),
        part(
            "exact softmax, streamed",
            num_instances * row,
            operations(num_instances),
        ),
        part(
            "exact softmax, [batch, n] in memory",
            2 * num_instances * row + 4 * 4 * batch * num_instances,
            operations(num_instances),
        ),
        # Old rows and embeddings are read, new rows are written.
        part("bank update", 3 * batch * row, 6 * batch * dim),
    ]


def main() -> None:
    """Prints the tables."""
    tiny = timing.arguments(__doc__).tiny
    from tf_instdisc import build_encoder

    name, size, width = ("resnet18", 32, 4) if tiny else ("resnet50", 224, 64)
    layers = count_layers(build_encoder(name, image_size=size, width=width))
    batch, num_instances, num_negatives = 256, 1_281_167, 4096
    head = head_parts(batch, num_instances, num_negatives)
    for precision in FLOPS:
        parts = encoder_parts(layers, batch, precision)
        total = sum(part.seconds for part in parts)
        timing.print_table(
            [f"part, {precision}", "GB", "GFLOP", "floor, ms", "bound by"],
            [_row(part) for part in parts]
            + [["encoder", "", "", f"{total * 1e3:.2f}", ""]],
        )
    timing.print_table(
        ["head, float32", "GB", "GFLOP", "floor, ms", "bound by"],
        [_row(part) for part in head],
    )
    timing.print_table(
        ["input", "MB a batch", "floor, ms"],
        [
            [
                kind,
                f"{num_bytes / 1e6:.0f}",
                f"{num_bytes / HOST_LINK * 1e3:.2f}",
            ]
            for kind, num_bytes in (
                ("float32 over PCIe 5", 4 * batch * size * size * 3),
                ("uint8 over PCIe 5", batch * size * size * 3),
            )
        ],
    )


def _row(part):
    return [
        part.name,
        f"{part.num_bytes / 1e9:.3f}",
        f"{part.operations / 1e9:.1f}",
        f"{part.seconds * 1e3:.3f}",
        part.bound_by,
    ]


if __name__ == "__main__":
    main()
