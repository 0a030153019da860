"""The life of a run in Python: train, evaluate, report, export.

These functions do what the commands do, without flags. Heavy modules are
imported when they are used.
"""

import os
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from tf_instdisc import remote
from tf_instdisc.config import RunConfig
from tf_instdisc.paths import local_path
from tf_instdisc.runs import opening
from tf_instdisc.runs.bank import Bank
from tf_instdisc.runs.directory import RunDirectory

if TYPE_CHECKING:
    import keras

    from tf_instdisc.data.sources import ImageSource
    from tf_instdisc.evaluation.protocol import Measurement
    from tf_instdisc.method.model import InstanceDiscrimination
    from tf_instdisc.retrieval.duplicates import Duplicates


class Run:
    """The directory of a run, finished or not.

    ```python
    run = tf_instdisc.Run("runs/cifar10")
    run.evaluate("knn", "linear")
    run.report()
    run.export("models/cifar10")
    ```

    Args:
        run_dir: The directory of the run.

    Attributes:
        directory: Reads and writes the files of the run.

    Raises:
        RunDirectoryError: If the directory does not hold a run.
    """

    def __init__(self, run_dir: str | os.PathLike):
        opened = opening.load(os.fspath(run_dir))
        # The current directory may change.
        self.directory = RunDirectory(opened.path.absolute())
        self._shown = remote.named(str(opened.path))

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"tf_instdisc.Run({self._shown!r})"

    @property
    def path(self) -> pathlib.Path:
        """The directory of the run, an absolute path."""
        return self.directory.path

    @property
    def config(self) -> RunConfig:
        """The settings of the run."""
        return self.directory.read_config()

    @property
    def metrics(self) -> list[dict[str, float]]:
        """One dictionary for each epoch."""
        return self.directory.read_metrics()

    def load_encoder(self) -> "keras.Model":
        """Loads the trained encoder."""
        from tf_instdisc.runs.load import load_encoder

        return load_encoder(self.path)

    def load_bank(self) -> Bank:
        """Loads the rows of the images, with ids, names and labels."""
        return self.directory.load_bank()

    def evaluate(self, *protocols: str, **options: Any) -> "list[Measurement]":
        """Measures the run as the paper does, and saves the results.

        Args:
            *protocols: Names such as `"knn"`, `"linear"`, `"svm"`,
                `"semi_supervised"` or `"finetune"`, each with its default
                options.
            **options: Protocols with other options:
                `knn=tf_instdisc.KNNOptions(num_neighbors=20)`.

        Returns:
            The measurements, each with the paper's number beside it.

        Raises:
            UsageError: If a protocol is unknown, or there are too few labels.
        """
        from tf_instdisc.evaluation import protocol
        from tf_instdisc.evaluation.evaluate import evaluate

        chosen = {n: protocol.find(n).options_kind() for n in protocols}
        return evaluate(self.directory, {**chosen, **options})

    def neighbors(
        self, query: str | os.PathLike, num_neighbors: int = 10
    ) -> tuple[list[list[str]], np.ndarray]:
        """Finds the nearest training images of an image or a folder.

        An image that is among the training images finds itself first.

        Args:
            query: An image file, or a folder of images.
            num_neighbors: Number of neighbors, at least 1. There are no more
                than the bank has rows.

        Returns:
            The names of the neighbors, one list for each image, and their
            cosines, float32 `[num_images, num_neighbors]`, the nearest first.

        Raises:
            UsageError: If no image can be read.
        """
        from tf_instdisc.retrieval import queries
        from tf_instdisc.runs.images import open_images

        own = open_images(self.directory)
        asked = queries.file_queries(self.directory, own, os.fspath(query))
        found = queries.nearest(asked, own.bank, num_neighbors)
        return own.bank.names[found.positions].tolist(), found.scores

    def duplicates(self, threshold: float | None = None) -> "Duplicates":
        """Finds near-duplicates among the training images.

        Args:
            threshold: The lowest cosine of near-duplicates, in (0, 1]. By
                default, pairs are judged by the distances to their other
                neighbors and by their pictures.

        Returns:
            The pairs, and the groups that they form.
        """
        from tf_instdisc.retrieval import duplicates
        from tf_instdisc.runs.images import open_images

        own = open_images(self.directory)
        collection = duplicates.training_images(own, self.directory)
        return duplicates.find_duplicates(collection, threshold)

    def report(self, output: str | os.PathLike | None = None) -> pathlib.Path:
        """Writes an HTML page, and returns its path; needs the extra `report`.

        Args:
            output: Path of the page; by default `report.html` in the run's
                directory.
        """
        from tf_instdisc.retrieval.pages import run_page
        from tf_instdisc.runs import images

        run = self.directory
        path = run_page.write_report(run, images.open_images(run), output)
        return pathlib.Path(local_path(path, "output", "output"))

    def export(
        self, export_dir: str | os.PathLike, **options: Any
    ) -> pathlib.Path:
        """Exports the next version of a model for TF Serving.

        Args:
            export_dir: Directory of the model; its last part is the name of
                the model.
            **options: Fields of `ExportOptions`, such as
                `bank_dtype="int8"`.

        Returns:
            The directory of the version.
        """
        from tf_instdisc.serving.options import ExportOptions
        from tf_instdisc.serving.saved_model import export_run

        return export_run(
            self.directory, os.fspath(export_dir), ExportOptions(**options)
        )


def train(
    config: RunConfig,
    run_dir: str | os.PathLike,
    source: "ImageSource | None" = None,
    test_source: "ImageSource | None" = None,
    *,
    finish: bool = False,
) -> Run:
    """Trains an encoder, or continues a run, as `instdisc-train` does.

    ```python
    config = tf_instdisc.RunConfig(
        data=tf_instdisc.DataConfig(images="photos", image_size=32),
        encoder=tf_instdisc.EncoderConfig(width=16),
        optimizer=tf_instdisc.OptimizerConfig(epochs=2, batch_size=16),
    )
    run = tf_instdisc.train(config, "runs/new")
    print(run.metrics[-1]["loss"])
    ```

    Args:
        config: The settings.
        run_dir: A missing or empty directory, or that of a run to continue.
        source: The images to train on; by default those of `config.data`.
        test_source: The images to classify by kNN, if `source` is given.
        finish: Whether to stop training and write the results of the newest
            checkpoint.

    Raises:
        UsageError: If the settings do not fit each other, the images, or the
            run in the directory.
        RunError: If the run cannot continue. The message states the reason.
    """
    from tf_instdisc.training.train import train as train_run

    path = os.fspath(run_dir)
    train_run(config, path, source, test_source, finish=finish)
    return Run(path)


def save_run(
    model: "InstanceDiscrimination",
    source: "ImageSource",
    run_dir: str | os.PathLike,
    config: RunConfig | None = None,
) -> Run:
    """Saves a model that was trained with `model.fit` as a run.

    All images are encoded, as at the end of `train`. There is no checkpoint, so
    the run cannot be continued; `EncoderConfig.init_encoder` begins a new one.

    ```python
    model.fit(dataset, steps_per_epoch=3, epochs=2)
    run = tf_instdisc.save_run(model, source, "runs/mine")
    print(run.load_bank().rows.shape)
    ```

    Args:
        model: The trained model.
        source: The images that it was trained on.
        run_dir: A missing or empty directory.
        config: Settings to save with the run; by default those that can be
            derived from the model and the source. The others, such as those
            of the backbone, of its input, of the augmentation and of the
            optimizer, then have their defaults, whatever `fit` was given.

    Raises:
        RunDirectoryError: If the directory holds something else.
        UsageError: If the encoder does not take the images of the settings,
            or the source has another number of ids than the model.
    """
    from tf_instdisc.training import fitted

    path = os.fspath(run_dir)
    fitted.save(model, source, path, config)
    return Run(path)
