"""The model card of a served model."""

import dataclasses
import shlex

import keras

from tf_instdisc.config import RunConfig
from tf_instdisc.data.decode import FORMATS
from tf_instdisc.serving.bank_index import BankIndex
from tf_instdisc.serving.options import ExportOptions
from tf_instdisc.serving.partitioned_index import PartitionedIndex
from tf_instdisc.serving.partitions import Probes
from tf_instdisc.serving.signatures import Function, most_in_request
from tf_instdisc.text import markdown_table

_RANGES = {
    "images": "RGB, 0 to 255",
    "image_bytes": f"{FORMATS}, of any size; `b64` over REST",
    "embedding": "unit length; zeros where `valid` is false",
    "valid": "false where the bytes are not an accepted image",
    "instance_ids": "ids of the bank, nearest first; -1 where not `valid`",
    "names": "of these images when the bank was trained",
    "labels": "of these images; -1 where there is none",
    "classes": "names of the classes, the same in each row",
}
_SCORES = {
    "neighbors": "cosines in [-1, 1], descending",
    "neighbors_bytes": "cosines in [-1, 1], descending; 0 where not `valid`",
    "classify_bytes": "fractions of the vote in [0, 1], summing to 1; "
    "0 where not `valid`",
}


def model_card(
    model_name: str,
    encoder: keras.Model,
    index: BankIndex | None,
    options: ExportOptions,
    functions: dict[str, Function],
    config: RunConfig,
    metrics: dict[str, float],
) -> str:
    """Returns the model card in Markdown.

    Args:
        metrics: The last value of each metric.
    """
    images = config.data
    data = images.dataset or images.images or "not known"
    split = f", split {images.split}" if images.dataset else ""
    knn = [
        f"{name} {metrics[name]:.4f}"
        for name in sorted(metrics)
        if name.startswith("knn_")
    ]
    settings = [
        (field.name, getattr(options, field.name))
        for field in dataclasses.fields(options)
    ]
    lines = [
        f"# {model_name}",
        "",
        "An image encoder trained without labels by instance discrimination",
        "(Wu, Xiong, Yu, Lin, CVPR 2018, arXiv 1805.01978).",
        "",
        f"- Data: {data}{split}",
        f"- Encoder: {encoder.name}, {encoder.count_params():,} parameters, "
        f"input of {encoder.input_shape[1]} pixels, embeddings of "
        f"{encoder.output_shape[1]} numbers",
        f"- Precision: {options.precision}",
        f"- Memory bank: {_bank(index, options)}",
        f"- kNN while training, last measured: "
        f"{', '.join(knn) or 'not measured'}",
        "",
        "## Signatures",
        "",
        markdown_table(
            ("signature", "tensor", "type", "shape", "range"),
            _signature_rows(functions),
        ),
        f"Bytes: the shorter side is resized to {encoder.input_shape[1]} / "
        f"{options.crop_fraction} pixels, and the center cut out, as in",
        f"evaluation. Images of more than {options.max_pixels:,} pixels are "
        f"refused.{_request_limit(options)}",
        "",
        "## Options",
        "",
        markdown_table(("option", "value"), settings),
        "## Recipe",
        "",
        "```sh",
        *_recipe(config),
        "```",
        "",
    ]
    return "\n".join(lines)


def _request_limit(options: ExportOptions) -> str:
    if options.bad_bytes != "error":
        return ""
    return f"\nA request may have at most {most_in_request(options):,} images."


def _bank(index: BankIndex | None, options: ExportOptions) -> str:
    if index is None:
        return "none: the encoder alone"
    return (
        f"{index.num_rows} rows, {index.num_labeled} with a label of "
        f"{index.num_classes} classes, stored in {options.bank_dtype}; "
        f"{_search(index)}"
    )


def _search(index: BankIndex) -> str:
    if not isinstance(index, PartitionedIndex):
        return "a search reads all rows"
    read = [f"neighbors read {_probes(index.probes)}"]
    if index.num_classes and index.num_labeled:
        read.append(f"votes {_probes(index.labeled_probes)}")
    return (
        f"in {index.num_partitions:,} partitions, of which "
        f"{' and '.join(read)}, compared with an exhaustive search for some "
        "of the rows"
    )


def _probes(probes: Probes) -> str:
    return (
        f"{probes.number:,} (recall@{probes.num_neighbors} {probes.recall:.3f})"
    )


def _recipe(config: RunConfig) -> list[str]:
    """Returns the lines of a command that trains such a run."""
    words = ["instdisc-train"]
    for name, value in config.flags().items():
        if name != "data_dir":
            words.append("  " + shlex.quote(f"--{name}={value}"))
    return [*(f"{word} \\" for word in words[:-1]), words[-1]]


def _signature_rows(
    functions: dict[str, Function],
) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, function in functions.items():
        concrete = function.get_concrete_function()
        spec = function.input_signature[0]
        tensors = [("in", spec.name, spec)] + [
            ("out", key, value)
            for key, value in sorted(concrete.structured_outputs.items())
        ]
        for way, key, value in tensors:
            shape = ", ".join(
                "batch" if dim is None else str(dim) for dim in value.shape
            )
            meaning = _RANGES.get(key) or _SCORES[name]
            tensor = f"{way} `{key}`"
            rows.append(
                (f"`{name}`", tensor, value.dtype.name, f"[{shape}]", meaning)
            )
    return rows
