"""TensorBoard: neighbor grids during training, and the projector."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from tensorboard.plugins import projector

from tf_instdisc import atomic
from tf_instdisc.retrieval import neighbor_rows
from tf_instdisc.retrieval import queries as search
from tf_instdisc.retrieval.pages import grid
from tf_instdisc.retrieval.pages.pages import sheet
from tf_instdisc.runs.bank import sample_rows
from tf_instdisc.runs.images import RunImages
from tf_instdisc.text import tsv

_RUN = "grid"
_SPRITE = 32
_NUM_QUERIES = 8
_NUM_NEIGHBORS = 10
_PROJECTED = 5000  # More rows make the browser slow.


class EmbeddingView(keras.callbacks.Callback):
    """Shows in TensorBoard how neighbors change, and finally the rows.

    Every `every` epochs, it writes a grid with the neighbors of the same 8
    random images. After training, it writes a sample of 5,000 rows, with
    names, labels and pictures, for the embedding projector.

    Args:
        open_images: Returns the images with the current bank.
        every: Number of epochs between two grids; the last epoch always has
            one.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike,
        open_images: Callable[[], RunImages],
        every: int = 1,
    ):
        super().__init__()
        self.log_dir = pathlib.Path(log_dir)
        self.open_images = open_images
        self.every = every

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        is_last = epoch + 1 == self.params.get("epochs")
        if (epoch + 1) % self.every and not is_last:
            return
        images = self.open_images()
        queries = search.random_queries(images, _NUM_QUERIES)
        found = search.nearest(queries, images.bank, _NUM_NEIGHBORS)
        rows = neighbor_rows.grid_rows(queries, found, images, grid.PICTURE)
        writer = tf.summary.create_file_writer(str(self.log_dir / _RUN))
        with writer.as_default():
            tf.summary.image("neighbors", grid.draw(rows)[None], step=epoch)
        writer.close()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        # TensorBoard reads the projector's files from directories with events,
        # of which the grid's is one, below any --logdir.
        write_projector(self.log_dir / _RUN, self.open_images())


def write_projector(log_dir: str | os.PathLike, images: RunImages) -> None:
    """Writes rows, names, labels and pictures for TensorBoard's projector.

    Args:
        log_dir: A directory with TensorBoard's events, or its --logdir.
        images: The run's images, of which at most 5,000 are drawn at random.
    """
    log_dir = pathlib.Path(log_dir)
    log_dir.mkdir(parents=True, exist_ok=True)
    bank = images.bank
    positions = sample_rows(len(bank.rows), _PROJECTED)
    with atomic.replacing(log_dir / "rows.tsv") as partial:
        np.savetxt(partial, bank.rows[positions], fmt="%.5g", delimiter="\t")
    metadata = tsv(
        ("name", "label", "instance_id"),
        (
            (
                bank.names[position],
                neighbor_rows.class_name(bank, bank.labels[position]),
                bank.instance_ids[position],
            )
            for position in positions
        ),
    )
    atomic.write_text(log_dir / "metadata.tsv", metadata)
    pictures, _ = images.read(positions, _SPRITE)
    with atomic.replacing(log_dir / "sprite.png") as partial:
        Image.fromarray(sheet(pictures)).save(partial)

    config = projector.ProjectorConfig()
    embedding = config.embeddings.add()
    embedding.tensor_name = "memory bank"
    embedding.tensor_path = "rows.tsv"
    embedding.metadata_path = "metadata.tsv"
    embedding.sprite.image_path = "sprite.png"
    embedding.sprite.single_image_dim.extend([_SPRITE, _SPRITE])
    projector.visualize_embeddings(str(log_dir), config)
