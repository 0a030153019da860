"""Finishes a run: rows encoded from the whole images, encoder and bank.

While a run trains, the rows of its memory bank come from augmented views, each
written by the encoder at that time. They stay in the checkpoint. A finished
run is searched by rows that its final encoder computes from the whole images,
so that an image finds itself.
"""

import dataclasses
import sys
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from tf_instdisc.data.sources import ImageSource
from tf_instdisc.errors import DamagedFileError, NonFiniteError
from tf_instdisc.method.memory_bank import MemoryBank
from tf_instdisc.runs import update
from tf_instdisc.runs.bank import Bank, EncodedBy
from tf_instdisc.runs.directory import RunDirectory, RunDirectoryError
from tf_instdisc.runs.embedding import Embedded, embed
from tf_instdisc.runs.images import bank_of
from tf_instdisc.training.saving import Progress


def readable_ids(source: ImageSource) -> np.ndarray:
    """Returns the ids of the images that have a row: int64, ascending."""
    return np.setdiff1d(np.arange(source.num_instances), source.unreadable)


def training_bank(memory_bank: MemoryBank, source: ImageSource) -> Bank:
    """Returns the rows left by training, with their names and labels."""
    ids = readable_ids(source)
    rows = memory_bank.rows.numpy()[ids].astype(np.float32)
    return bank_of(rows, source, ids)


def encode(
    encoder: keras.Model | Callable[[tf.Tensor], tf.Tensor],
    images: tf.data.Dataset,
    source: ImageSource,
) -> Embedded:
    """Encodes every readable image, in the order of the ids, as `embed` does.

    Besides the result, only one batch is held in memory.

    Raises:
        NonFiniteError: If an embedding is not finite.
    """
    embedded = embed(encoder, images, source.num_readable)
    if not np.isfinite(embedded.embeddings).all():
        raise NonFiniteError(
            "The encoder's embeddings must be finite. Received: embeddings of "
            f"{source.name} that are not. Try --precision=float32."
        )
    return embedded


def write(
    run: RunDirectory,
    encoder: keras.Model,
    embedded: Embedded,
    source: ImageSource,
    progress: Progress,
    encoded_at: float,
    init_run: RunDirectory | None = None,
) -> None:
    """Writes the results of a run: encoder, instances, and finally the bank.

    The bank names the encoder of its rows, so that a process killed in
    between cannot leave two files that seem to belong together.

    Args:
        embedded: The output of `encode`.
        encoded_at: The time when encoding began, in seconds as in `os.stat`.
            A file written since may differ from the one that was encoded.
        init_run: The run from which this one started.
    """
    # Saving the same weights again would change the file's digest, and existing
    # results would be treated as those of another encoder.
    if not _holds(run, encoder):
        run.save_encoder(encoder)
    encoded_by = EncodedBy(
        run.encoder_digest(), progress.epochs, progress.images
    )
    bank = bank_of(embedded.embeddings, source, embedded.instance_ids)
    if source.folder is not None:
        removed_ids = run.load_instances().removed_ids
        if init_run is not None:
            before = init_run.load_instances().removed_ids
            removed_ids = np.union1d(removed_ids, before)
        digests = update.folder_digests(source.folder, bank.names, encoded_at)
        run.save_instances(removed_ids, digests)
    run.save_bank(dataclasses.replace(bank, encoded_by=encoded_by))


def is_finished(
    run: RunDirectory,
    source: ImageSource,
    encoder: keras.Model,
    progress: Progress | None,
    epochs: int,
    finish: bool = False,
) -> bool:
    """Returns whether a run's results are those of its newest checkpoint.

    Args:
        encoder: The encoder of the newest checkpoint, if there is one.
        progress: The progress of that checkpoint.
        epochs: Number of epochs of the run.
        finish: Whether to accept the newest checkpoint before all epochs are
            done.

    Raises:
        RunDirectoryError: If the run cannot continue: there is nothing to
            finish, its results come from elsewhere than training, or
            `instdisc-update` has changed its instances.
    """
    if finish and progress is None:
        raise RunDirectoryError(
            "`finish` needs a run with a checkpoint. Received: "
            f"run_dir={run.path}, which has none. Train it without --finish."
        )
    if not run.bank.exists():
        return False
    if progress is None:
        if run.read_config().optimizer.epochs == 0:
            return False  # It has only encoded its images.
        raise RunDirectoryError(
            "`run_dir` must be new, or hold a checkpoint to continue from. "
            f"Received: run_dir={run.path}, whose encoder and bank were saved "
            "without one. To train its encoder, start a new run from it: "
            f"instdisc-train --init_encoder={run.path} --run_dir=NEW."
        )
    try:
        ids, names, encoded_by = run.read_bank_ids()
    except DamagedFileError as error:
        print(f"warning: {error} It is written again.", file=sys.stderr)
        return False
    is_own = _are_of(source, ids, names)
    is_trained = finish or progress.epochs >= epochs
    is_of_checkpoint = (
        is_trained
        and _holds(run, encoder)
        and encoded_by
        == EncodedBy(run.encoder_digest(), progress.epochs, progress.images)
    )
    if is_own or is_of_checkpoint:
        return is_of_checkpoint
    if is_trained and encoded_by is None:
        # The origin of rows written by earlier versions is unknown.
        return True
    raise RunDirectoryError(
        "`run_dir` must hold a bank over the images that the run was trained "
        f"on. Received: run_dir={run.path}, whose bank instdisc-update has "
        "changed. To train on its current images, start a new run from it: "
        f"instdisc-train --init_run={run.path} --run_dir=NEW."
    )


def holds_rows_of(run: RunDirectory, source: ImageSource) -> bool:
    """Returns whether the bank has rows of exactly these images."""
    ids, names, _ = run.read_bank_ids()
    return _are_of(source, ids, names)


def _are_of(source: ImageSource, ids: np.ndarray, names: np.ndarray) -> bool:
    own_ids = readable_ids(source)
    return np.array_equal(ids, own_ids) and all(
        source.instance_name(int(i)) == name
        for i, name in zip(own_ids, names, strict=True)
    )


def _holds(run: RunDirectory, encoder: keras.Model) -> bool:
    """Returns whether the run's file already holds this encoder."""
    try:
        kept = run.load_encoder_file(run.encoder)
    except FileNotFoundError:
        return False
    except DamagedFileError as error:
        print(f"warning: {error} It is written again.", file=sys.stderr)
        return False
    weights = kept.get_weights(), encoder.get_weights()
    return len(weights[0]) == len(weights[1]) and all(
        np.array_equal(a, b) for a, b in zip(*weights, strict=True)
    )
