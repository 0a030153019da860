"""Growth of the time and memory of a training step, with the expected law.

One of n, the number of negatives and the batch size is varied at a time. The
other two stay at n = 50,000, 4096 shared negatives and a batch size of 128. The
encoder is one convolution at 32 pixels, so that the head is not hidden by it.
Each point is measured in its own process. `--plot=FILE.png` requires
matplotlib.
"""

import functools
import sys
import time

import numpy as np

from benchmarks import timing

_DIM = 128
_DEFAULT = {"n": 50_000, "negatives": 4096, "batch": 128}
_SWEEPS = {
    "n": [10**4, 10**5, 10**6, 10**7],
    "negatives": [1, 64, 4096, 65_536],
    "batch": [32, 128, 512, 1024],
}
_TINY = {"n": [100], "negatives": [8], "batch": [4]}
# The expected laws of time and of memory above the bank, as functions of the
# varied quantity.
_LAWS = {
    ("negatives", "nce"): ("a + b negatives", "a + b negatives"),
    ("batch", "nce"): ("a + b batch", "a + b batch"),
    ("n", "nce"): ("constant", "constant"),
    ("n", "softmax"): ("a + b n", "constant"),
}


def make(objective: str, n: int, negatives: int, batch: int):
    """Returns a function that runs a training step."""
    import keras
    import tensorflow as tf

    from tf_instdisc import InstanceDiscrimination

    keras.utils.set_random_seed(0)
    image = keras.Input([32, 32, 3])
    x = keras.layers.Conv2D(16, 3, activation="relu")(image)
    x = keras.layers.GlobalAveragePooling2D()(x)
    x = keras.layers.Dense(_DIM)(x)
    encoder = keras.Model(image, keras.layers.UnitNormalization()(x))
    model = InstanceDiscrimination(
        encoder,
        n,
        objective=objective,
        num_negatives=negatives,
        temperature=0.1,
    )
    model.compile(optimizer=keras.optimizers.SGD(0.03, momentum=0.9))
    model.optimizer.build(model.trainable_variables)
    step = tf.function(model.train_step)
    generator = np.random.default_rng(0)
    images = generator.uniform(0, 255, [batch, 32, 32, 3]).astype(np.float32)
    ids = generator.integers(0, n, [batch])
    data = tf.constant(images), tf.constant(ids)
    return lambda: step(data)["loss"].numpy()


def measure(objective: str, repeats: int, **sizes: int) -> tuple[float, float]:
    """Measures the CPU seconds and the additional megabytes of a step.

    The time is the minimum of `repeats` steps after the first one. The memory
    is the peak of a step above what the process holds before it, which is the
    bank, the weights and the images.
    """
    return timing.in_own_process(_measure, objective, repeats, sizes)


def _measure(objective, repeats, sizes):
    step = make(objective, **sizes)
    step()
    megabytes = timing.peak_of(step)
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    return min(seconds), megabytes


def expected(law: str, x: list[int], y: list[float]) -> list[float]:
    """Fits a law to `y` by least squares of the relative errors.

    Args:
        law: `"constant"`, or a law that begins with `"a + b"`.
        x: Values of the varied quantity.
        y: Measurements, greater than 0.

    Returns:
        The fitted values at `x`.
    """
    points = np.asarray(x, float)
    columns = [np.ones_like(points)]
    if law != "constant":
        columns.append(points)
    # Relative errors are minimized, or the largest point would dominate.
    matrix = np.stack(columns, axis=1)
    weights = 1 / np.maximum(np.asarray(y, float), 1e-9)
    factors, *_ = np.linalg.lstsq(
        matrix * weights[:, None], np.asarray(y) * weights, rcond=None
    )
    return (matrix @ factors).tolist()


def _fits(n: int) -> bool:
    """Whether a bank of n rows fits into half of the available memory."""
    with open("/proc/meminfo", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    available = 1024 * int(lines["MemAvailable"].split()[0])
    fits = 2 * 4 * n * _DIM <= available
    if not fits:
        print(f"n = {n:,} is left out: too little memory", file=sys.stderr)
    return fits


def plot(results: dict, path: str) -> None:
    """Plots the measurements of each sweep as points and the laws as lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(_SWEEPS), figsize=(9, 5), dpi=80)
    for (varied, objective), sweep in results.items():
        for row, (name, values, laws) in enumerate(sweep["curves"]):
            axis = axes[row, list(_SWEEPS).index(varied)]
            (points,) = axis.plot(
                sweep["x"],
                values,
                "o",
                label=f"{objective}: {sweep['law'][row]}",
            )
            axis.plot(
                sweep["x"], laws, "-", color=points.get_color(), alpha=0.5
            )
            axis.set(xscale="log", yscale="log", xlabel=varied)
            if varied == "n":
                axis.set_ylabel(name)
            axis.legend(fontsize=7)
            low, high = axis.dataLim.intervaly
            axis.set_ylim(low / 2, high * 2)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Prints the tables."""
    parser = timing.parser(__doc__)
    parser.add_argument("--plot", help="a PNG to write")
    options = parser.parse_args()
    sweeps = _TINY if options.tiny else _SWEEPS
    run = functools.partial(measure, repeats=1 if options.tiny else 3)
    results = {}
    for (varied, objective), law in _LAWS.items():
        x = [v for v in sweeps[varied] if varied != "n" or _fits(v)]
        base = _DEFAULT | ({"n": 100, "batch": 2} if options.tiny else {})
        points = [run(objective, **base | {varied: value}) for value in x]
        curves = [
            (name, values, expected(kind, x, values))
            for name, values, kind in zip(
                ("CPU ms", "MB above the bank"),
                (
                    [1e3 * s for s, _ in points],
                    [max(m, 0.1) for _, m in points],
                ),
                law,
                strict=True,
            )
        ]
        results[varied, objective] = {"x": x, "curves": curves, "law": law}
        (_, times, time_law), (_, sizes, size_law) = curves
        timing.print_table(
            [varied, "CPU ms", law[0], "MB above the bank", law[1]],
            [
                [value, f"{t:.1f}", f"{tl:.1f}", f"{m:.1f}", f"{ml:.1f}"]
                for value, t, tl, m, ml in zip(
                    x, times, time_law, sizes, size_law, strict=True
                )
            ],
        )
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
