"""Measures exported models in a session as ratios within one run.

    python -m benchmarks.serving [--repeats=9]

The model is a ResNet-18 of 64 pixels with a bank of 50,000 rows. It is
untrained, as weights do not affect the speed. The compared variants alternate,
and the least CPU time of all threads is reported for each, which depends
little on other work of the machine. Latencies of first calls are wall times.
"""

import os

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import dataclasses
import pathlib
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from benchmarks import timing
from tf_instdisc import build_encoder
from tf_instdisc.config.run import from_flagfile
from tf_instdisc.runs import opening
from tf_instdisc.runs.bank import Bank
from tf_instdisc.runs.record import RunRecord
from tf_instdisc.serving import saved_model, warmup
from tf_instdisc.serving.options import ExportOptions

NUM_CLASSES = 10
PHOTO = (375, 500)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the encoder, its bank and the batches."""

    image: int = 64
    rows: int = 50_000
    batches: tuple[int, ...] = (1, 8, 32)

    @property
    def head(self) -> list[str]:
        return [f"batch {size}" for size in self.batches]


TINY = Sizes(image=16, rows=300, batches=(1,))


def make_run(path, sizes):
    """Creates an untrained run, of which only the shapes matter."""
    if sizes is TINY:
        encoder = _linear_encoder(sizes.image)
    else:
        encoder = build_encoder(image_size=sizes.image, stem="imagenet")
    rows = np.random.default_rng(0).normal(size=(sizes.rows, 128))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    run = opening.open_run(
        str(path), RunRecord(from_flagfile("--crop_fraction=0.875\n"))
    )
    run.append_metrics({"epoch": 0})
    run.save_encoder(encoder)
    run.save_bank(
        Bank(
            rows.astype(np.float32),
            np.arange(sizes.rows),
            np.array([f"image/{i}" for i in range(sizes.rows)]),
            np.arange(sizes.rows) % NUM_CLASSES,
            tuple(map(str, range(NUM_CLASSES))),
        )
    )
    return run


def _linear_encoder(image_size):
    inputs = keras.Input([image_size, image_size, 3])
    outputs = keras.layers.Dense(128)(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, keras.layers.UnitNormalization()(outputs))


class Served:
    """An exported version in a session."""

    def __init__(self, path, sizes):
        self.sizes = sizes
        self.path = str(path)
        self.session = tf.compat.v1.Session(graph=tf.Graph())
        with self.session.graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(
                self.session, ["serve"], self.path
            )
        self.signatures = meta_graph.signature_def

    def ask(self, name, inputs):
        signature = self.signatures[name]
        (feed,) = signature.inputs.values()
        outputs = {k: v.name for k, v in signature.outputs.items()}
        return self.session.run(outputs, {feed.name: inputs})

    def warm_up(self):
        for request in warmup.read_records(self.path):
            (proto,) = request.inputs.values()
            self.ask(request.model_spec.signature_name, tf.make_ndarray(proto))


def inputs_of(batch_size, sizes):
    """Returns images and JPEG photographs."""
    rng = np.random.default_rng(0)
    size = [batch_size, sizes.image, sizes.image, 3]
    small = rng.integers(0, 256, [12, 16, 3], np.uint8)
    photo = tf.image.resize(small, PHOTO, "bicubic")
    photo = tf.cast(tf.clip_by_value(photo, 0, 255), tf.uint8)
    content = tf.io.encode_jpeg(photo, quality=90).numpy()
    images = rng.integers(0, 256, size, np.uint8)
    return images, np.array([content] * batch_size, object)


def first_call(served, is_warm):
    """Returns the seconds of the first two answers of a new session."""
    if is_warm:
        served.warm_up()
    _, contents = inputs_of(1, served.sizes)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        served.ask("neighbors_bytes", contents)
        seconds.append(time.perf_counter() - start)
    return seconds


def table(title, head, rows):
    """Prints a Markdown table with its title in the first cell."""
    cells = [
        [f"{c:.2f}" if isinstance(c, float) else c for c in r] for r in rows
    ]
    timing.print_table([title, *head], cells)


def signatures_table(served, repeats):
    """Compares the signatures, and prints the fraction of decoding."""
    seconds = {}
    for batch_size in served.sizes.batches:
        images, contents = inputs_of(batch_size, served.sizes)
        ways = {
            name: lambda n=name, x=contents if "bytes" in name else images: (
                served.ask(n, x)
            )
            for name in served.signatures
            if not name.startswith("__")
        }
        for name, value in timing.compare(ways, repeats).items():
            seconds[name, batch_size] = value.cpu / batch_size
    unit = seconds["serving_default", 1]
    names = list(dict.fromkeys(name for name, _ in seconds))
    table(
        "Images per CPU second, relative to serving_default at batch 1",
        served.sizes.head,
        [
            [n, *(unit / seconds[n, b] for b in served.sizes.batches)]
            for n in names
        ],
    )
    table(
        f"Decoding (JPEG, {PHOTO[1]}x{PHOTO[0]}) in image_bytes",
        served.sizes.head,
        [
            [
                "fraction",
                *(
                    1
                    - seconds["serving_default", b] / seconds["image_bytes", b]
                    for b in served.sizes.batches
                ),
            ]
        ],
    )


def variants_table(plain, variants, signature, repeats):
    """Compares other precisions with float32."""
    rows = {name: [name] for name in ["float32", *variants]}
    for batch_size in plain.sizes.batches:
        images, _ = inputs_of(batch_size, plain.sizes)
        ways = {
            name: lambda s=served, x=images: s.ask(signature, x)
            for name, served in {"float32": plain, **variants}.items()
        }
        seconds = timing.compare(ways, repeats)
        for name, value in seconds.items():
            rows[name].append(seconds["float32"].cpu / value.cpu)
    table(
        f"Images per CPU second of {signature}, relative to float32",
        plain.sizes.head,
        rows.values(),
    )


def tflite_table(plain, version, repeats):
    """Compares TFLite with the SavedModel."""
    images, _ = inputs_of(1, plain.sizes)
    ways = {"SavedModel": lambda: plain.ask("serving_default", images)}
    for kind in ("float32", "int8"):
        file = version / "tflite" / f"encoder_{kind}.tflite"
        embed = tf.lite.Interpreter(
            str(file), num_threads=os.cpu_count()
        ).get_signature_runner()
        ways[f"TFLite {kind}, {file.stat().st_size / 2**20:.0f} MiB"] = (
            lambda e=embed: e(images=images.astype(np.float32))
        )
    seconds = timing.compare(ways, 4 * repeats)
    table(
        "Images per CPU second of the encoder at batch 1",
        ["relative"],
        [[n, seconds["SavedModel"].cpu / s.cpu] for n, s in seconds.items()],
    )


def main():
    """Runs all measurements."""
    parser = timing.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parsed = parser.parse_args()
    sizes = TINY if parsed.tiny else Sizes()
    repeats = 1 if parsed.tiny else parsed.repeats
    options = ExportOptions(crop_fraction=0.875, batch_sizes=sizes.batches)
    changes = {
        "plain": {},
        "bfloat16": {"precision": "bfloat16"},
        "bank in float16": {"bank_dtype": "float16"},
        "bank in int8": {"bank_dtype": "int8"},
    }
    if parsed.tiny:
        del changes["bank in float16"]
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        run = make_run(root / "run", sizes)
        images, _ = inputs_of(64, sizes)
        versions = {
            name: saved_model.export_run(
                run,
                str(root / "models"),
                dataclasses.replace(options, **change),
                tflite_types=("float32", "int8") if name == "plain" else (),
                calibration_images=images,
            )
            for name, change in changes.items()
        }
        cold = first_call(Served(versions["plain"], sizes), is_warm=False)
        warm = first_call(Served(versions["plain"], sizes), is_warm=True)
        table(
            "Latency of neighbors_bytes, batch 1, relative to a second call",
            ["relative"],
            [
                ["first, without warm-up", cold[0] / cold[1]],
                ["first, after the warm-up records", warm[0] / cold[1]],
            ],
        )
        served = {name: Served(path, sizes) for name, path in versions.items()}
        plain = served.pop("plain")
        signatures_table(plain, repeats)
        bfloat16 = {"bfloat16": served.pop("bfloat16")}
        variants_table(plain, bfloat16, "serving_default", repeats)
        variants_table(plain, served, "neighbors", repeats)
        tflite_table(plain, versions["plain"], repeats)


if __name__ == "__main__":
    main()
