"""Exports a run directory as the next version of a served model."""

import dataclasses
import os
import pathlib

import keras
import numpy as np
import tensorflow as tf

from tf_instdisc import atomic, progress
from tf_instdisc.errors import UsageError, require_tensorflow_backend
from tf_instdisc.paths import local_path
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.runs.load import load_encoder
from tf_instdisc.runs.policy import with_policy
from tf_instdisc.serving import (
    graph_check,
    model_card,
    tflite,
    versions,
    warmup,
)
from tf_instdisc.serving.options import ExportOptions
from tf_instdisc.serving.partitioned_index import build_index
from tf_instdisc.serving.partitions import number_of_partitions
from tf_instdisc.serving.signatures import Function, build_serving

MODEL_CARD = "model_card.md"
_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def export_run(
    run: RunDirectory,
    export_dir: str,
    options: ExportOptions | None = None,
    *,
    with_bank: bool = True,
    tflite_types: tuple[str, ...] = (),
    calibration_images: np.ndarray | None = None,
) -> pathlib.Path:
    """Writes the next version of a served model.

    The SavedModel is checked and its warm-up records are replayed before the
    version becomes visible under its number.

    Args:
        run: A finished run.
        export_dir: Directory of the model; its last part is the model's
            name. Existing versions in it are not changed.
        options: The export options. `crop_fraction`, `temperature` and
            `num_votes` are those of the run unless they are given.
        with_bank: Whether to export the bank with the encoder.
        tflite_types: Any of `"float32"` and `"int8"`; for each, the file
            `tflite/encoder_TYPE.tflite` is also written.
        calibration_images: uint8 or float `[num_images, size, size, 3]` in
            [0, 255], from which the ranges of the int8 TFLite model are
            chosen; required for it.

    Returns:
        The directory of the version, or its working copy if `export_dir` is a
        URL.

    Raises:
        RunDirectoryError: If the run has not finished.
        RuntimeError: If a warm-up record fails.
        UsageError: If int8 has no calibration images, or a stock server cannot
            run the graph.
    """
    require_tensorflow_backend(keras.config.backend())
    if "int8" in tflite_types and calibration_images is None:
        raise UsageError(
            "`calibration_images` are required for TFLite in int8: a few "
            "hundred images like those in use. Received: none"
        )
    export_dir = local_path(export_dir, "export_dir", "versions")
    config = run.read_config()
    options = options or ExportOptions()
    options = dataclasses.replace(
        options,
        crop_fraction=options.crop_fraction or config.data.crop_fraction,
        temperature=options.temperature or config.method.temperature,
        num_votes=options.num_votes or config.training.num_neighbors,
    )
    encoder = load_encoder(run.path)
    index = None
    if with_bank:
        bank = run.load_bank()
        index = build_index(
            bank,
            number_of_partitions(options.partitions, len(bank.rows)),
            options.bank_dtype,
            options.target_recall,
            options.num_neighbors,
            options.num_votes,
        )
    served = with_policy(encoder, _POLICIES[options.precision])
    functions, variables = build_serving(served, index, options)
    model_name = os.path.basename(os.path.abspath(export_dir))
    metrics: dict[str, float] = {}
    for epoch in run.read_metrics():
        metrics.update(epoch)

    def write(version: pathlib.Path) -> None:
        path = os.fspath(version)
        save(functions, variables, path, model_name, options.batch_sizes)
        for kind in tflite_types:
            tflite.write(encoder, version, kind, calibration_images)
        card = model_card.model_card(
            model_name,
            served,
            index,
            options,
            functions,
            config,
            metrics,
        )
        atomic.write_text(version / MODEL_CARD, card)

    return versions.write_version(export_dir, write)


def save(
    functions: dict[str, Function],
    variables: tf.Module,
    path: str,
    model_name: str,
    batch_sizes: tuple[int, ...],
) -> None:
    """Saves and checks what `build_serving` returns, and warm-up records.

    Args:
        path: The directory to write, which must not be a version's number.

    Raises:
        RuntimeError: If a warm-up record fails.
        UsageError: If a stock server cannot run the graph.
    """
    with progress.tracking("writing and checking the model", 4) as advance:
        tf.saved_model.save(
            variables,
            path,
            signatures={
                name: function.get_concrete_function()
                for name, function in functions.items()
            },
        )
        advance(1)
        graph_check.check_saved_model(path)
        advance(1)
        warmup.write_records(path, model_name, functions, batch_sizes)
        advance(1)
        warmup.replay(path)
