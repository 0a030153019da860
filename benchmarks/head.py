"""The head of NCE: the loss, the gradient of the embeddings, the bank update.

It is compared with the authors' algorithm in PyTorch, in which each example
draws its own negatives, their rows are gathered, `bmm` and `exp` compute the
scores, and `index_copy_` writes the renormalized rows.
"""

import math

import numpy as np
import tensorflow as tf

from benchmarks import timing
from tf_instdisc.method import objectives
from tf_instdisc.method.memory_bank import MemoryBank

_DIM = 128
_TEMPERATURE = 0.07


def batch(num_instances: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns unit embeddings `[size, 128]` and ids `[size]`."""
    random = np.random.default_rng(0)
    embeddings = random.normal(size=[size, _DIM]).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings, random.integers(0, num_instances, size)


def ours(num_instances, size, num_negatives, negatives):
    """Returns a function that runs a step of the head of this package."""
    bank = MemoryBank(num_instances, _DIM)
    step = tf.Variable(0, dtype=tf.int64)
    embeddings, ids = map(tf.constant, batch(num_instances, size))
    objective = objectives.NCE(
        _TEMPERATURE, num_negatives, negatives == "shared", seed=0
    )

    @tf.function
    def run():
        with tf.GradientTape() as tape:
            tape.watch(embeddings)
            losses = objective(
                objectives.LossInputs(
                    embeddings, ids, bank, step, training=True
                )
            )
            loss = tf.reduce_mean(losses)
        gradient = tape.gradient(loss, embeddings)
        bank.update(ids, embeddings)
        step.assign_add(1)
        return loss, gradient

    return lambda: run()[1].numpy()


def authors(num_instances, size, num_negatives):
    """Returns a function that runs the authors' algorithm in PyTorch."""
    import torch

    bound = 1 / math.sqrt(_DIM / 3)
    bank = torch.rand(num_instances, _DIM).mul_(2 * bound).add_(-bound)
    embeddings, ids = map(torch.from_numpy, batch(num_instances, size))
    normalizer = None
    noise = num_negatives / num_instances

    def run():
        nonlocal normalizer
        v = embeddings.clone().requires_grad_()
        drawn = torch.randint(0, num_instances, (size, num_negatives + 1))
        drawn[:, 0] = ids
        rows = bank.index_select(0, drawn.view(-1))
        rows = rows.view(size, num_negatives + 1, _DIM)
        scores = torch.bmm(rows, v.view(size, _DIM, 1)).squeeze(2)
        scores = scores.div(_TEMPERATURE).exp()
        if normalizer is None:
            normalizer = scores.mean().item() * num_instances
        scores = scores / normalizer
        positive, negative = scores[:, 0], scores[:, 1:]
        loss = -(positive / (positive + noise)).log().sum()
        loss = loss - (noise / (negative + noise)).log().sum()
        (loss / size).backward()
        with torch.no_grad():
            moved = bank.index_select(0, ids).mul_(0.5).add_(v, alpha=0.5)
            moved.div_(moved.norm(dim=1, keepdim=True))
            bank.index_copy_(0, ids, moved)
        return v.grad

    return run


def main() -> None:
    """Prints the table."""
    tiny = timing.parser(__doc__).parse_args().tiny
    torch = timing.optional("torch")
    sizes = (
        [(1000, 8, 16)]
        if tiny
        else [(50_000, 128, 4096), (1_281_167, 256, 4096)]
    )
    rows = []
    for size in sizes:
        functions = {
            "shared": ours(*size, "shared"),
            "per_example": ours(*size, "per_example"),
        }
        if torch:
            functions["PyTorch"] = authors(*size)
        seconds = timing.compare(functions, 2 if tiny else 10)
        memory = {
            "shared": timing.peak_megabytes(ours, *size, "shared"),
            "per_example": timing.peak_megabytes(ours, *size, "per_example"),
        }
        for name, value in seconds.items():
            faster = ["-", "-"]
            if torch:
                theirs = seconds["PyTorch"]
                faster = [
                    f"{theirs.clock / value.clock:.1f}",
                    f"{theirs.cpu / value.cpu:.1f}",
                ]
            rows.append(
                [
                    *size,
                    name,
                    *timing.milliseconds(value),
                    *faster,
                    f"{memory[name]:.0f}" if name in memory else "-",
                ]
            )
    timing.print_table(
        [
            "n",
            "batch",
            "negatives",
            "head",
            "ms",
            "CPU ms",
            "times as fast",
            "in CPU time",
            "MB above the bank",
        ],
        rows,
    )


if __name__ == "__main__":
    main()
