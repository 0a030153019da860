"""The whole training step compared with its encoder alone and with PyTorch.

The step is that of the CIFAR-10 recipe: ResNet-18, batch size 128, n = 50,000.
The PyTorch step uses the same network, channels last, with SGD and a sum as its
loss. With `--precision=mixed_bfloat16`, PyTorch uses autocast.
"""

import keras
import numpy as np
import tensorflow as tf

from benchmarks import timing
from tf_instdisc import build_encoder
from tf_instdisc.method import fused_batch_norm
from tf_instdisc.method.model import InstanceDiscrimination

_NUM_INSTANCES = 50_000


def whole(objective, images, ids, width):
    """Returns a function that runs a training step of the model."""
    keras.utils.set_random_seed(0)
    encoder = build_encoder("resnet18", image_size=images.shape[1], width=width)
    model = InstanceDiscrimination(
        encoder, _NUM_INSTANCES, objective=objective, temperature=0.1
    )
    model.compile(optimizer=keras.optimizers.SGD(0.03, momentum=0.9))
    model.optimizer.build(model.trainable_variables)
    step = tf.function(model.train_step)
    batch = tf.constant(images), tf.constant(ids)
    return lambda: step(batch)["loss"].numpy()


def encoder_alone(images, width):
    """Returns a function that runs the encoder forward, backward and SGD."""
    keras.utils.set_random_seed(0)
    encoder = build_encoder("resnet18", image_size=images.shape[1], width=width)
    encode = fused_batch_norm.training_call(encoder)
    optimizer = keras.optimizers.SGD(0.03, momentum=0.9)
    variables = encoder.trainable_variables
    optimizer.build(variables)
    batch = tf.constant(images)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(encode(batch)[:, 0])
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss

    return lambda: step().numpy()


def pytorch(images, width, precision):
    """Returns a function that runs the same step in PyTorch."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, channels_in, channels, stride):
            super().__init__()
            self.main = nn.Sequential(
                nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
                nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
                nn.BatchNorm2d(channels),
            )
            self.shortcut = nn.Identity()
            if stride != 1 or channels_in != channels:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(channels_in, channels, 1, stride, bias=False),
                    nn.BatchNorm2d(channels),
                )

        def forward(self, x):
            return torch.relu(self.main(x) + self.shortcut(x))

    layers = [
        nn.Conv2d(3, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    ]
    channels_in = width
    for stage in range(4):
        for block in range(2):
            channels = width * 2**stage
            stride = 2 if stage and not block else 1
            layers.append(Block(channels_in, channels, stride))
            channels_in = channels
    layers += [
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(channels_in, 128),
    ]
    network = nn.Sequential(*layers).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), 0.03, momentum=0.9)
    batch = torch.from_numpy(images.transpose(0, 3, 1, 2) / 127.5 - 1)
    batch = batch.contiguous(memory_format=torch.channels_last)

    def step():
        optimizer.zero_grad()
        with torch.autocast(
            "cpu", torch.bfloat16, enabled=precision == "mixed_bfloat16"
        ):
            projected = network(batch)
        v = nn.functional.normalize(projected.float())
        v[:, 0].sum().backward()
        optimizer.step()

    return step


def main() -> None:
    """Prints the table."""
    parser = timing.parser(__doc__)
    parser.add_argument("--image_size", type=int, default=32)
    parser.add_argument("--precision", default="float32")
    given = parser.parse_args()
    tiny, side = given.tiny, given.image_size
    keras.mixed_precision.set_dtype_policy(given.precision)
    size, width = (16, 4) if tiny else (128, 64)
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, [size, side, side, 3]).astype(np.float32)
    ids = random.permutation(_NUM_INSTANCES)[:size]
    functions = {
        "encoder alone": encoder_alone(images, width),
        "softmax": whole("softmax", images, ids, width),
        "nce, 4096 negatives": whole("nce", images, ids, width),
    }
    torch = timing.optional("torch")
    if torch:
        functions["PyTorch, encoder alone"] = pytorch(
            images, width, given.precision
        )
    seconds = timing.compare(functions, 1 if tiny else 6)
    alone = seconds["encoder alone"]
    theirs = seconds.get("PyTorch, encoder alone")
    timing.print_table(
        [
            "step",
            "images/s",
            "ms",
            "CPU ms",
            "time / encoder alone",
            "in CPU time",
            "time / PyTorch",
            "in CPU time",
        ],
        [
            [
                name,
                round(size / value.clock),
                *timing.milliseconds(value),
                *timing.ratios(value, alone),
                *timing.ratios(value, theirs),
            ]
            for name, value in seconds.items()
        ],
    )


if __name__ == "__main__":
    main()
