"""Writes measurements to a table, a file and TensorBoard."""

import dataclasses
import os
from collections.abc import Sequence

import tensorflow as tf

from tf_instdisc.config import DataConfig
from tf_instdisc.evaluation.protocol import Measurement
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.text import markdown_table, shown


def table(measurements: Sequence[Measurement]) -> str:
    """Returns a Markdown table of our and the paper's values in percent."""
    rows = (
        (
            one.protocol,
            shown(one.name),
            one.metric,
            f"{100 * one.value:.1f}",
            "" if one.paper is None else f"{100 * one.paper:.1f}",
            one.paper_setting,
        )
        for one in measurements
    )
    return markdown_table(
        ("protocol", "what", "metric", "here", "paper", "the paper's setting"),
        rows,
    )


def suffix(
    own: DataConfig, data: DataConfig, is_own: bool, test_name: str
) -> str:
    """Returns the end of measurement names, which tells what was measured.

    It is empty for the run's own data, and differs between other data.

    Args:
        own: The images of the run.
        data: The images that were measured.
        is_own: Whether these are the run's training images, apart from their
            keys.
        test_name: The name of the test images of a dataset.
    """
    place, keys = data.images, ""
    if data.images:
        test_name = data.test_images or ""
        is_usual = _beside(own, data.images) == os.path.normpath(test_name) or (
            is_own and test_name == own.test_images
        )
    else:
        # Folders of different datasets often have the same name, and the
        # name of a source lacks the configuration of its dataset.
        place = f"{data.dataset}/{data.split}"
        for key, default in (("image_key", "image"), ("label_key", "label")):
            value = getattr(data, key) or default
            if value != (getattr(own, key) or default):
                keys += f", {key}={value}"
        is_usual = data.test_split == (
            own.test_split if data.dataset == own.dataset else None
        )
    end = "" if is_own and not keys else f", to {place}{keys}"
    return end if is_usual else f"{end}, tested on {test_name}"


def _beside(own: DataConfig, images: str) -> str | None:
    """Returns where a folder's test images are, if placed as the run's own."""
    if not own.images or not own.test_images:
        return None
    path = os.path.relpath(own.test_images, own.images)
    return os.path.normpath(os.path.join(images, path))


def save(run: RunDirectory, measurements: Sequence[Measurement]) -> None:
    """Adds measurements to the run's results, or replaces earlier ones.

    Results of another encoder, from before the run was continued, are
    dropped. The file is written atomically.
    """
    encoder = run.encoder_digest()
    is_of_encoder = run.load_results().get("encoder") == encoder
    kept = {_key(one): one for one in (load(run) if is_of_encoder else [])}
    kept.update({_key(one): one for one in measurements})
    run.save_results(
        {
            "encoder": encoder,
            "measurements": [dataclasses.asdict(one) for one in kept.values()],
        }
    )


def load(run: RunDirectory) -> list[Measurement]:
    """Returns all results of a run; none if it was not evaluated."""
    content = run.load_results()
    return [Measurement(**one) for one in content.get("measurements", [])]


def write_scalars(
    run: RunDirectory, measurements: Sequence[Measurement]
) -> None:
    """Writes measurements to the run's TensorBoard logs at its last epoch."""
    epochs = (int(line["epoch"]) for line in run.read_metrics())
    writer = tf.summary.create_file_writer(str(run.tensorboard / "evaluation"))
    with writer.as_default(step=max(epochs, default=0)):
        for one in measurements:
            tag = f"{one.protocol}/{one.name}/{one.metric}"
            tf.summary.scalar(tag, one.value)
    writer.close()


def _key(one: Measurement) -> tuple[str, str, str]:
    return one.protocol, one.name, one.metric
