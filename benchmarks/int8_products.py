"""Stock TensorFlow ops that score one query against rows stored as int8.

An exported int8 bank is read four times as fast as a float32 bank, but no stock
op multiplies it without either converting or copying it: this compares the ops
with the conversion alone, and with the time of reading the rows.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from benchmarks import timing
from benchmarks.neighbors import read_once

_PIECE = 8192  # Rows that fit in a core's cache as float32, as in `BankIndex`.


def _quantized(values: np.ndarray) -> tf.Tensor:
    """Returns int8 values plus 128 as `quint8`."""
    return tf.bitcast(tf.constant(values.view(np.uint8) ^ 0x80), tf.quint8)


def products(rows: np.ndarray, query: np.ndarray) -> dict[str, Callable]:
    """Returns functions of no arguments by name, traced on first use.

    Args:
        rows: int8 `[num_rows, dim]`.
        query: int8 `[1, dim]`.
    """
    starts = range(0, len(rows), _PIECE)
    stored, narrow = tf.Variable(rows), tf.constant(query)
    wide = tf.cast(narrow, tf.float32)
    single = tf.constant(rows, tf.float32)
    half = tf.cast(single, tf.bfloat16)
    unsigned, unsigned_query = _quantized(rows), _quantized(query)
    columns = tf.bitcast(tf.constant(np.ascontiguousarray(rows.T)), tf.qint8)
    limits = {"min_a": -1.0, "max_a": 1.0, "min_b": -1.0, "max_b": 1.0}
    scales = {
        f"{side}_{what}": value
        for side in ("lhs", "rhs", "output")
        for what, value in (("scales", 1.0), ("zero_points", 0))
    }
    ranges = {
        f"{side}_quantization_{end}_val": value
        for side, bits in (("lhs", 7), ("rhs", 7), ("output", 31))
        for end, value in (("min", -(2**bits)), ("max", 2**bits - 1))
    }

    def converted(dtype: tf.DType) -> tf.Tensor:
        pieces = [
            tf.matmul(
                tf.cast(stored[start : start + _PIECE], dtype),
                tf.cast(narrow, dtype),
                transpose_b=True,
            )
            for start in starts
        ]
        return tf.concat(pieces, 0)

    functions = {
        "float32 rows, MatMul": lambda: tf.matmul(
            single, wide, transpose_b=True
        ),
        "bfloat16 rows, MatMul": lambda: tf.matmul(
            half, tf.cast(wide, tf.bfloat16), transpose_b=True
        ),
        "int8, Cast to float32 and MatMul (BankIndex)": lambda: converted(
            tf.float32
        ),
        "int8, Cast to float32 alone": lambda: tf.stack(
            [
                tf.cast(stored[start : start + _PIECE], tf.float32)[0, 0]
                for start in starts
            ]
        ),
        "int8, Cast to bfloat16 and MatMul": lambda: converted(tf.bfloat16),
        "int8, MatMul to int32": lambda: tf.matmul(
            stored, narrow, transpose_b=True, output_type=tf.int32
        ),
        "uint8, QuantizedMatMul": lambda: tf.bitcast(
            tf.raw_ops.QuantizedMatMul(
                a=unsigned, b=unsigned_query, transpose_b=True, **limits
            )[0],
            tf.int32,
        ),
        "int8, UniformQuantizedDot": lambda: tf.bitcast(
            tf.raw_ops.UniformQuantizedDot(
                lhs=tf.bitcast(narrow, tf.qint8),
                rhs=columns,
                Tout=tf.qint32,
                **scales,
                **ranges,
            ),
            tf.int32,
        ),
    }
    return {
        name: tf.function(function, autograph=False)
        for name, function in functions.items()
    }


def main() -> None:
    """Prints the table."""
    num_rows = 2 * _PIECE if timing.parser(__doc__).parse_args().tiny else 10**6
    generator = np.random.default_rng(0)
    rows = generator.integers(-127, 128, [num_rows, 128], np.int8)
    query = generator.integers(-127, 128, [1, 128], np.int8)
    functions = {
        name: lambda product=product: product().numpy()
        for name, product in products(rows, query).items()
    }
    functions["int8, read once"] = read_once(rows)
    seconds = timing.compare(functions, 5)
    timing.print_table(
        ["op", "ms", "CPU ms"],
        [[name, *timing.milliseconds(took)] for name, took in seconds.items()],
    )


if __name__ == "__main__":
    main()
