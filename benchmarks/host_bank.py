"""Time and memory of training with a bank of 10,000,000 rows in host memory.

python -m benchmarks.host_bank [NUM_INSTANCES]
"""

import os
import sys
import time

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def memory(field: str) -> float:
    """Returns a memory figure of this process in GiB."""
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith(field):
                return int(line.split()[1]) / 2**20
    raise KeyError(field)


def main() -> None:
    """Prints the memory and the time of each stage."""
    import keras
    import numpy as np
    import tensorflow as tf

    import tf_instdisc

    num_instances = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000

    def report(stage, started):
        print(
            f"{stage}: {time.perf_counter() - started:.2f} s, "
            f"{memory('VmRSS'):.2f} GiB, peak {memory('VmHWM'):.2f} GiB",
            flush=True,
        )

    print(f"before: {memory('VmRSS'):.2f} GiB")
    started = time.perf_counter()
    encoder = tf_instdisc.build_encoder("resnet18", image_size=32, width=8)
    model = tf_instdisc.InstanceDiscrimination(
        encoder,
        num_instances,
        num_negatives=4096,
        bank_dtype="bfloat16",
        bank_placement="host",
    )
    model.compile(optimizer=keras.optimizers.SGD(0.03, momentum=0.9))
    report(f"bank of {num_instances} x 128, bfloat16", started)
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (64, 32, 32, 3)).astype(np.float32)
    ids = rng.integers(0, num_instances, 64)
    batch = tf.data.Dataset.from_tensors((images, ids)).repeat()
    before = model.memory_bank.lookup(ids).numpy()
    for stage in ("first step", "10 further steps"):
        started = time.perf_counter()
        steps = 1 if stage == "first step" else 10
        history = model.fit(batch, steps_per_epoch=steps, verbose=0).history
        report(f"{stage}, loss {history['loss'][0]:.4f}", started)
    moved = np.abs(model.memory_bank.lookup(ids).numpy() - before).max(axis=1)
    assert (moved > 0).all()


if __name__ == "__main__":
    main()
