"""Loss in mixed precision against float32, over 200 steps on CIFAR-10.

[OBJECTIVE=nce] python -m benchmarks.mixed_precision DATA_DIR [STEPS]
"""

import itertools
import json
import os
import subprocess
import sys

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

WINDOW = 20  # steps whose losses are averaged
BATCH_SIZE = 64
OBJECTIVE = os.environ.get("OBJECTIVE", "softmax")


def train(precision: str, data_dir: str, steps: int) -> list[float]:
    """Mean loss of each 20 steps; ResNet-18 of width 8, images seen once."""
    import keras

    import tf_instdisc
    from tf_instdisc import optimization

    keras.config.set_dtype_policy(precision)
    keras.utils.set_random_seed(0)
    images = steps * BATCH_SIZE
    source = tf_instdisc.tfds_source("cifar10", f"train[:{images}]", data_dir)
    encoder = tf_instdisc.build_encoder("resnet18", image_size=32, width=8)
    model = tf_instdisc.InstanceDiscrimination(
        encoder, images, objective=OBJECTIVE, temperature=0.1
    )
    model.compile(
        optimizer=optimization.build_optimizer(
            "adamw",
            learning_rate=1e-3,
            weight_decay=0.05,
            schedule="constant",
            warmup_epochs=0.5,
            steps_per_epoch=steps,
            epochs=1,
        )
    )
    is_scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert is_scaled == (precision == "mixed_float16")
    dataset = tf_instdisc.training_dataset(
        source, tf_instdisc.Augmentation(24), BATCH_SIZE, epochs=1
    )
    sums = []

    class Losses(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            sums.append(logs["loss"] * (batch + 1))  # Keras gives the mean.

    model.fit(dataset, steps_per_epoch=steps, callbacks=[Losses()], verbose=0)
    ends = [0.0, *sums[WINDOW - 1 :: WINDOW]]
    return [(b - a) / WINDOW for a, b in itertools.pairwise(ends)]


def main() -> None:
    """Prints the losses and how far they are from float32's."""
    data_dir = sys.argv[1]
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    if len(sys.argv) > 3:
        print(json.dumps(train(sys.argv[3], data_dir, steps)))
        return
    losses = {}
    for precision in ("float32", "mixed_bfloat16", "mixed_float16"):
        result = subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.mixed_precision"),
                *(data_dir, str(steps), precision),
            ],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        losses[precision] = json.loads(result.stdout.splitlines()[-1])
        differences = [
            abs(loss / expected - 1)
            for loss, expected in zip(
                losses[precision], losses["float32"], strict=True
            )
        ]
        print(
            f"{precision}: loss {losses[precision][0]:.4f} -> "
            f"{losses[precision][-1]:.4f}, at most {max(differences):.2%} "
            "from float32 over 20 steps, "
            f"{abs(sum(losses[precision]) / sum(losses['float32']) - 1):.2%} "
            "over all",
            flush=True,
        )


if __name__ == "__main__":
    main()
