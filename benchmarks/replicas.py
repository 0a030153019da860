"""Steps on 1, 2 and 4 logical devices, a checkpoint, and a restart.

Prints wall times, and CPU times of all threads, which depend little on other
jobs on the machine.

python -m benchmarks.replicas
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def measure(num_devices: int, directory: pathlib.Path) -> None:
    """Prints the time of a step, and saves or restores a checkpoint."""
    started = time.perf_counter(), time.process_time()
    import keras
    import numpy as np
    import tensorflow as tf

    import tf_instdisc
    from tf_instdisc.data import pipeline
    from tf_instdisc.runs import checkpoints
    from tf_instdisc.training import strategy

    strategy.split_cpu(num_devices)
    name = "mirrored" if num_devices > 1 else "one_device"
    built = strategy.build_strategy(name)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (50_000, 32, 32, 3), np.uint8)
    source = tf_instdisc.array_source(images)
    with built.scope():
        model = tf_instdisc.InstanceDiscrimination(
            tf_instdisc.build_encoder(image_size=32, width=16), 50_000
        )
        model.compile(optimizer=keras.optimizers.SGD(0.03, momentum=0.9))
    model.build_training_state()
    state = tf.train.Checkpoint(**model.training_state())
    saved, _ = checkpoints.find_newest(directory)
    if saved:
        checkpoints.restore(saved, state)
    ends = []

    class Times(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            ends.append((time.perf_counter(), time.process_time()))

    model.fit(
        strategy.distribute(
            built,
            lambda share: pipeline.training_dataset(
                source, tf_instdisc.Augmentation(32), 64, 1, share=share
            ),
        ),
        steps_per_epoch=20,
        callbacks=[Times()],
        verbose=0,
    )
    clock, threads = np.median(np.diff(ends, axis=0)[4:], axis=0)
    first = np.subtract(ends[0], started)
    print(
        f"| {num_devices}, {'from a checkpoint' if saved else 'fresh'} "
        f"| {1000 * threads:.0f} ms | {1000 * clock:.0f} ms "
        f"| {first[1]:.1f} s | {first[0]:.1f} s |",
        flush=True,
    )
    if not saved:
        before = time.perf_counter(), time.process_time()
        path = checkpoints.write(directory, state, {}, keep=1)
        took = np.subtract((time.perf_counter(), time.process_time()), before)
        size = sum(file.stat().st_size for file in path.iterdir())
        print(
            f"| its checkpoint, {size / 2**20:.1f} MiB "
            f"| {took[1]:.2f} s | {took[0]:.2f} s | | |",
            flush=True,
        )


def main() -> None:
    """Measures each number of devices in its own process."""
    if len(sys.argv) > 1:
        measure(int(sys.argv[1]), pathlib.Path(sys.argv[2]))
        return
    print(
        "| logical devices | step, all threads | by the clock "
        "| start to first step, all threads | by the clock |"
    )
    print("| --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        for num_devices in (1, 1, 2, 4):
            subprocess.run(
                [
                    *(sys.executable, "-m", "benchmarks.replicas"),
                    *(str(num_devices), directory),
                ],
                check=True,
            )


if __name__ == "__main__":
    main()
