"""Saves a model that was trained with `model.fit` as a run."""

import dataclasses
import pathlib
import time

import keras

from tf_instdisc import remote
from tf_instdisc.config import (
    DataConfig,
    EncoderConfig,
    MethodConfig,
    RunConfig,
)
from tf_instdisc.config.encoder import PRECISIONS
from tf_instdisc.data.pipeline import evaluation_dataset
from tf_instdisc.data.sources import ImageSource
from tf_instdisc.errors import UsageError
from tf_instdisc.method.encoders import custom_backbone
from tf_instdisc.method.model import InstanceDiscrimination
from tf_instdisc.runs import checkpoints, lock, opening
from tf_instdisc.runs.directory import RunDirectory, RunDirectoryError
from tf_instdisc.runs.embedding import BATCH_SIZE
from tf_instdisc.runs.record import RunRecord
from tf_instdisc.training import finishing
from tf_instdisc.training.parts import facts_of
from tf_instdisc.training.saving import Progress


def save(
    model: InstanceDiscrimination,
    source: ImageSource,
    run_dir: str,
    config: RunConfig | None,
) -> None:
    """Implements `tf_instdisc.save_run`."""
    if source.num_instances != model.num_instances:
        raise UsageError(
            "`source` must hold the images that the model was trained on. "
            f"Received: source.num_instances={source.num_instances}, and a "
            f"model of num_instances={model.num_instances}. Give the source "
            "whose ids `fit` was given."
        )
    encoder = model.encoder
    _require_fitting(
        encoder, config.data.image_size if config else encoder.input_shape[1]
    )
    config = config or _config_of(model, source)
    data = config.data
    if not config.optimizer.epochs:
        raise UsageError(
            "`config.optimizer.epochs` must be at least 1 for a trained model. "
            "Received: epochs=0"
        )
    record = RunRecord(config, facts_of(source))
    with lock.holding(run_dir):
        run = RunDirectory(pathlib.Path(run_dir))
        if run.bank.exists() or checkpoints.find_newest(run.checkpoints)[0]:
            raise RunDirectoryError(
                "`run_dir` must be missing or empty. Received: "
                f"run_dir={run_dir}, which holds a trained run. Choose another "
                "directory."
            )
        run = opening.check_record(run_dir, record)
        encoded_at = time.time()
        images = evaluation_dataset(
            source, data.image_size, BATCH_SIZE, data.crop_fraction
        )
        embedded = finishing.encode(encoder, images, source)
        # Not earlier, so that a failure leaves nothing behind.
        run.save_record(record)
        finishing.write(run, encoder, embedded, source, Progress(), encoded_at)


def _config_of(model: InstanceDiscrimination, source: ImageSource) -> RunConfig:
    encoder = model.encoder
    precision = encoder.dtype_policy.name
    known = {field.name for field in dataclasses.fields(MethodConfig)}
    method = {
        name: value
        for name, value in model.get_config().items()
        if name in known and value is not None
    }
    # Ids without a name are those of removed images.
    has_bad_images = any(map(source.instance_name, source.unreadable))
    return RunConfig(
        data=DataConfig(
            images=source.folder and remote.named(source.folder),
            bad_images="skip" if has_bad_images else "fail",
            image_size=encoder.input_shape[1],
        ),
        encoder=EncoderConfig(
            embedding_dim=encoder.output_shape[1],
            precision=precision if precision in PRECISIONS else "float32",
        ),
        method=MethodConfig(**method),
    )


def _require_fitting(encoder: keras.Model, image_size: int | None) -> None:
    """Raises unless an encoder takes RGB images of this size."""
    shape = encoder.input_shape
    if image_size is None or not custom_backbone.fits_images(shape, image_size):
        raise UsageError(
            "The encoder must take square RGB images of the settings' size. "
            f"Received: encoder.input_shape={shape}, image_size={image_size}. "
            "If the encoder takes several sizes, give a `config` with "
            "`DataConfig.image_size`."
        )
