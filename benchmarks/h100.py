"""The floor of each part of a training step on one H100, on paper.

ResNet-50, batch 256, n = 1,281,167: bytes over the memory's speed, operations
over the arithmetic's, whichever takes longer. No kernel is faster; real ones
are slower, and launching one takes some microseconds.

Source of the speeds: NVIDIA H100 Tensor Core GPU data sheet, SXM, without
sparsity.
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
        name: What it does.
        num_bytes: Read and written in the GPU's memory.
        operations: Multiplications and additions.
        precision: Of the operations, a key of `FLOPS`.
    """

    name: str
    num_bytes: float
    operations: float
    precision: str

    @property
    def memory_seconds(self) -> float:
        """What reading and writing takes."""
        return self.num_bytes / MEMORY

    @property
    def arithmetic_seconds(self) -> float:
        """What the operations take."""
        return self.operations / FLOPS[self.precision]

    @property
    def seconds(self) -> float:
        """The floor: the longer of both."""
        return max(self.memory_seconds, self.arithmetic_seconds)

    @property
    def bound_by(self) -> str:
        """Which of both it is."""
        by_memory = self.memory_seconds > self.arithmetic_seconds
        return "memory" if by_memory else "arithmetic"


@dataclasses.dataclass(frozen=True)
class Layers:
    """Sums over an encoder's layers, for one image.

    Attributes:
        multiply_adds: Of convolutions and dense layers, forward.
        first_multiply_adds: Those of the first layer, whose input needs no
            gradient.
        conv_inputs: Numbers that convolutions read.
        conv_outputs: Numbers that they write; each goes through batch norm.
        joined: Numbers that additions of a shortcut write.
        weights: Trained weights of the whole encoder.
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
        # Each output is a sum over all but the last side of the kernel.
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
    """Forward and backward of the encoder, and SGD with momentum.

    Kernels as cuDNN has them: a convolution reads its input and writes its
    output; batch norm reads that twice (statistics, then the result with
    ReLU and the shortcut's addition in one) and writes it. Backward, batch
    norm reads input and gradient twice and writes one gradient; a
    convolution reads the gradient for its weights and for its input, its
    input again, and writes the input's gradient. Weights count only in SGD.
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
    """Each kind of head, loss and gradient for the embeddings, in float32.

    A product for the logits and one for the gradient. What is kept between
    the two goes through memory, but for the streamed softmax, whose chunks of
    logits stay in the cache of 50 MB.
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
            # Gathered (read, written), read by both products; logits are
            # written and read, as is their gradient.
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
