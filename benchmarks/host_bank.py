"""Time and memory of training with a large bank, in one process.

python -m benchmarks.host_bank [NUM_INSTANCES [PLACEMENT [REPLICAS]]]

By default, 10,000,000 rows are in the memory of the host. Replicas are logical
CPU devices, so that they use the memory of the process.
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
    from tf_instdisc.method.replicas import first_replica
    from tf_instdisc.training.strategy import build_strategy, split_cpu

    num_instances = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    placement = sys.argv[2] if len(sys.argv) > 2 else "host"
    replicas = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    strategy = tf.distribute.get_strategy()
    if replicas > 1:
        split_cpu(replicas)
        strategy = build_strategy("mirrored")

    def report(stage, started):
        print(
            f"{stage}: {time.perf_counter() - started:.2f} s, "
            f"{memory('VmRSS'):.2f} GiB, peak {memory('VmHWM'):.2f} GiB",
            flush=True,
        )

    print(f"before: {memory('VmRSS'):.2f} GiB")
    started = time.perf_counter()
    with strategy.scope():
        model = tf_instdisc.InstanceDiscrimination(
            tf_instdisc.build_encoder("resnet18", image_size=32, width=8),
            num_instances,
            num_negatives=4096,
            bank_dtype="bfloat16",
            bank_placement=placement,
        )
        model.compile(optimizer=keras.optimizers.SGD(0.03, momentum=0.9))
    report(f"bank of {num_instances} x 128, bfloat16", started)
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (64, 32, 32, 3)).astype(np.float32)
    ids = rng.integers(0, num_instances, 64)
    batch = tf.data.Dataset.from_tensors((images, ids)).repeat()

    def rows():
        found = strategy.run(model.memory_bank.lookup, [tf.constant(ids)])
        return first_replica(strategy, found).numpy()

    before = rows()
    for stage in ("first step", "10 further steps"):
        started = time.perf_counter()
        steps = 1 if stage == "first step" else 10
        history = model.fit(batch, steps_per_epoch=steps, verbose=0).history
        report(f"{stage}, loss {history['loss'][0]:.4f}", started)
    moved = np.abs(rows() - before).max(axis=1)
    assert (moved > 0).all()


if __name__ == "__main__":
    main()
