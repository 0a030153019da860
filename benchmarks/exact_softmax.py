"""Exact softmax over the bank: streamed compared with a [batch, n] matrix."""

import numpy as np
import tensorflow as tf

from benchmarks import head, timing
from tf_instdisc.method import formulas, streamed_softmax

_TEMPERATURE = 0.07


def make(kind: str, num_instances: int, size: int):
    """Returns a function that computes the loss and gradient of one batch."""
    embeddings, ids = map(tf.constant, head.batch(num_instances, size))
    start = tf.random.stateless_normal([num_instances, 128], [0, 0])
    bank = tf.Variable(tf.math.l2_normalize(start, axis=1), trainable=False)
    del start
    # From now on, a plain read copies the bank, as it does in training.
    bank.scatter_update(tf.IndexedSlices(embeddings, ids))

    def losses():
        if kind == "plain":
            return formulas.softmax_loss(
                embeddings, ids, bank.value(), _TEMPERATURE
            )
        positive = formulas.positive_logits(
            embeddings, tf.gather(bank, ids), _TEMPERATURE
        )
        return -positive + streamed_softmax.log_sum_exp(
            embeddings,
            lambda rows: tf.gather(bank, rows),
            num_instances,
            _TEMPERATURE,
        )

    @tf.function
    def run():
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            each = losses()
        return each, tape.gradient(each, embeddings)

    return lambda: [result.numpy() for result in run()]


def main() -> None:
    """Prints the table."""
    tiny = timing.parser(__doc__).parse_args().tiny
    sizes = [(10_000, 64), (50_000, 128), (1_281_167, 256)]
    rows = []
    for size in [(3000, 8)] if tiny else sizes:
        kinds = ("plain", "streamed")
        memory = {k: timing.peak_megabytes(make, k, *size) for k in kinds}
        functions = {k: make(k, *size) for k in kinds}
        seconds = timing.compare(functions, 3)
        results = [functions[k]() for k in kinds]
        apart = max(np.abs(a - b).max() for a, b in zip(*results, strict=True))
        del functions
        for kind in kinds:
            rows.append(
                [
                    *size,
                    kind,
                    *timing.milliseconds(seconds[kind]),
                    *timing.ratios(seconds[kind], seconds["plain"]),
                    f"{memory[kind]:.0f}",
                    f"{apart:.1e}",
                ]
            )
    timing.print_table(
        [
            "n",
            "batch",
            "form",
            "ms",
            "CPU ms",
            "time / plain",
            "CPU time / plain",
            "MB above the bank",
            "largest difference",
        ],
        rows,
    )


if __name__ == "__main__":
    main()
