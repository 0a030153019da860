"""Linear SVMs on embeddings: Newton's method against scikit-learn's LIBLINEAR.

The rows are those of the trained weights that come with the package. Both
solvers choose among the default costs by cross-validation, in float64. One
thread of BLAS makes the CPU times of a busy machine comparable.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.svm
"""

import time

import numpy as np

from benchmarks import timing
from tf_instdisc import Run
from tf_instdisc.evaluation import svm_protocol
from tf_instdisc.evaluation.svm_protocol import SVMOptions, train_svm

_NUM_TEST = 10_000


def main() -> None:
    """Prints the table."""
    is_tiny = timing.parser(__doc__).parse_args().tiny
    sizes = [300] if is_tiny else [10_000, 40_000]
    bank = Run("cifar10-resnet18").load_bank()
    order = np.random.default_rng(0).permutation(len(bank.rows))
    rows, labels = bank.rows[order], bank.labels[order]
    print("| rows | solver | CPU s | cost | top-1 |")
    print("| --- | --- | --- | --- | --- |")
    for size in sizes:
        for name, most_features in (("Newton", 1024), ("LIBLINEAR", 0)):
            svm_protocol._MOST_FEATURES_OF_NEWTON = most_features
            start = time.process_time()
            search = train_svm(rows[:size], labels[:size], SVMOptions())
            seconds = time.process_time() - start
            accuracy = search.score(rows[-_NUM_TEST:], labels[-_NUM_TEST:])
            cost = search.best_params_["svm__C"]
            print(
                f"| {size:,} | {name} | {seconds:.1f} | {cost:g} | "
                f"{accuracy:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
