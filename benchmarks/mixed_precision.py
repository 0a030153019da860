"""The loss in mixed precision and in float32 over 200 steps on CIFAR-10.

Rounding alone makes two runs diverge. A float32 run with the kernels of
TensorFlow instead of those of oneDNN shows by how much.

python -m benchmarks.mixed_precision DATA_DIR [STEPS]
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
_ADAMW = (
    {"optimizer": "adamw", "weight_decay": 0.05},
    {"learning_rate": 1e-3, "warmup_epochs": 0.5},
)
_SGD = ({"optimizer": "sgd"}, {"learning_rate": 0.03})
# Objective, negatives; optimizer and its schedule.
RECIPES = {
    "softmax": ("softmax", 1, _ADAMW),
    "nce": ("nce", 4096, _ADAMW),
    "nce, SGD": ("nce", 512, _SGD),
}
# The dtype policy, and whether oneDNN is enabled.
RUNS = {
    "float32": ("float32", "1"),
    "float32, other kernels": ("float32", "0"),
    "mixed_bfloat16": ("mixed_bfloat16", "1"),
    "mixed_float16": ("mixed_float16", "1"),
}


def train(
    precision: str, recipe: str, data_dir: str, steps: int
) -> list[float]:
    """Returns the loss of each step of a ResNet-18 of width 8."""
    import keras

    import tf_instdisc
    from tf_instdisc.training import optimizer as optimization

    objective, num_negatives, (optimizer, schedule) = RECIPES[recipe]
    keras.config.set_dtype_policy(precision)
    images = steps * BATCH_SIZE
    source = tf_instdisc.tfds_source("cifar10", f"train[:{images}]", data_dir)
    keras.utils.set_random_seed(0)
    encoder = tf_instdisc.build_encoder("resnet18", image_size=32, width=8)
    model = tf_instdisc.InstanceDiscrimination(
        encoder,
        images,
        objective=objective,
        num_negatives=num_negatives,
        temperature=0.1,
    )
    rate = optimization.build_schedule(
        "constant", steps_per_epoch=steps, epochs=1, **schedule
    )
    model.compile(
        optimizer=optimization.build_optimizer(**optimizer, learning_rate=rate)
    )
    is_scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert is_scaled == (precision == "mixed_float16")
    dataset = tf_instdisc.training_dataset(
        source, tf_instdisc.Augmentation(24), BATCH_SIZE, epochs=1
    )
    sums = [0.0]

    class Losses(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            sums.append(logs["loss"] * (batch + 1))  # Keras gives the mean.

    model.fit(dataset, steps_per_epoch=steps, callbacks=[Losses()], verbose=0)
    return [b - a for a, b in itertools.pairwise(sums)]


def main() -> None:
    """Prints the losses and their deviations from float32."""
    data_dir = sys.argv[1]
    steps = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    if len(sys.argv) > 3:
        print(json.dumps(train(*sys.argv[3:5], data_dir, steps)))
        return
    print(
        "| recipe | precision | loss, first and last 20 | mean | last 20 "
        "| farthest 20 |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for recipe in RECIPES:
        expected = None
        for name, (precision, onednn) in RUNS.items():
            command = [
                *(sys.executable, "-m", "benchmarks.mixed_precision"),
                *(data_dir, str(steps), precision, recipe),
            ]
            result = subprocess.run(
                command,
                check=True,
                stdout=subprocess.PIPE,
                env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": onednn},
                text=True,
            )
            losses = json.loads(result.stdout.splitlines()[-1])
            expected = expected or losses
            away = [
                sum(losses[part]) / sum(expected[part]) - 1
                for part in (
                    slice(None),
                    slice(-WINDOW, None),
                    *_windows(steps),
                )
            ]
            farthest = max(away[2:], key=abs)
            first, last = sum(losses[:WINDOW]), sum(losses[-WINDOW:])
            print(
                f"| {recipe} | {name} | {first / WINDOW:.4f}, "
                f"{last / WINDOW:.4f} | {away[0]:+.2%} | {away[1]:+.2%} "
                f"| {farthest:+.2%} |",
                flush=True,
            )


def _windows(steps):
    return [slice(i, i + WINDOW) for i in range(0, steps, WINDOW)]


if __name__ == "__main__":
    main()
