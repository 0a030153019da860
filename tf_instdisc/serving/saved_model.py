"""Exports a run directory as the next version of a served model."""

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from tf_instdisc import atomic, progress, remote
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
from tf_instdisc.serving.signatures import Serving, build_serving

MODEL_CARD = "model_card.md"
_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def options_of(
    run: RunDirectory, options: ExportOptions | None = None, **changes: Any
) -> ExportOptions:
    """Returns export options that match a run's settings.

    Args:
        run: A finished run.
        options: The options that do not depend on the run; the defaults if
            None.
        **changes: Options to change, by name; None values are ignored.
    """
    config = run.read_config()
    followed: dict = {
        "crop_fraction": config.data.crop_fraction,
        "temperature": config.method.temperature,
        "num_votes": config.training.num_neighbors,
    }
    given = {k: v for k, v in changes.items() if v is not None}
    options = options or ExportOptions()
    return dataclasses.replace(options, **{**followed, **given})


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
        options: The export options; by default, those of `options_of`.
        with_bank: Whether to export the bank with the encoder.
        tflite_types: Any of `"float32"` and `"int8"`; for each, the file
            `tflite/encoder_TYPE.tflite` is also written.
        calibration_images: uint8 or float `[num_images, size, size, 3]` in
            [0, 255], from which the ranges of the int8 TFLite model are
            chosen.

    Returns:
        The directory of the version, or its working copy if `export_dir` is a
        URL.

    Raises:
        RunDirectoryError: If the run has not finished.
        UnservableGraphError: If a stock server cannot run the graph.
        WarmupError: If a warm-up record fails.
        ValueError: If an argument is out of range.
    """
    export_dir = local_path(export_dir, "export_dir", "versions")
    options = options or options_of(run)
    encoder = load_encoder(run.path)
    index = build_index(run.load_bank(), options) if with_bank else None
    served = with_policy(encoder, _POLICIES[options.precision])
    serving = build_serving(served, index, options)
    model_name = os.path.basename(os.path.abspath(export_dir))
    metrics: dict[str, float] = {}
    for epoch in run.read_metrics():
        metrics.update(epoch)
    with versions.new_version(export_dir) as pending:
        path = os.fspath(pending.path)
        save(serving, path, model_name, options.batch_sizes)
        tflite.write(encoder, path, tflite_types, calibration_images)
        card = model_card.model_card(
            model_name,
            served,
            index,
            options,
            serving.functions,
            run.read_config(),
            metrics,
        )
        atomic.write_text(pending.path / MODEL_CARD, card)
        version = pending.publish()
    remote.send(version)
    return version


def save(
    serving: Serving,
    path: str,
    model_name: str,
    batch_sizes: tuple[int, ...],
) -> None:
    """Saves and checks signatures and their warm-up records.

    Args:
        serving: The signatures.
        path: The directory to write, which must not be a version's number.
        model_name: Name of the model on the server.
        batch_sizes: Batch sizes of the warm-up records.

    Raises:
        UnservableGraphError: If a stock server cannot run the graph.
        WarmupError: If a warm-up record fails.
    """
    with progress.tracking("writing and checking the model", 4) as advance:
        tf.saved_model.save(
            serving.variables,
            path,
            signatures={
                name: function.get_concrete_function()
                for name, function in serving.functions.items()
            },
        )
        advance(1)
        graph_check.check_saved_model(path)
        advance(1)
        warmup.write_records(path, model_name, serving.functions, batch_sizes)
        advance(1)
        warmup.replay(path)
