"""Finds and prepares a TFDS dataset, and its splits."""

import contextlib
import io
import os
import pathlib
import re
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.download_manager import (
    NonMatchingChecksumError,
)

from tf_instdisc.data import digits
from tf_instdisc.errors import UsageError
from tf_instdisc.paths import is_url, local_path
from tf_instdisc.text import UNTRUSTED_LIMIT, did_you_mean, shown

_TEST_SPLITS = ("test", "validation", "val", "valid", "dev")


def test_split_of(
    dataset: str, data_dir: str | None, test_split: str | None
) -> str | None:
    """Returns the split of a dataset that images are tested on.

    Args:
        test_split: A split. None stands for `test` or, if it is missing, for
            `validation`, `val`, `valid` or `dev`. `""` for none.

    Returns:
        A split, or None if there is none.
    """
    if test_split is not None:
        return test_split or None
    builder = open_builder(dataset, data_dir)
    prepare(builder, dataset)
    known = builder.info.splits
    found = next((name for name in _TEST_SPLITS if name in known), None)
    if found is None:
        print(
            f"{dataset} has no test split, only {', '.join(known)}; "
            "use --test_split to name another.",
            flush=True,
        )
    elif found != "test":
        print(f"{dataset} has no split test: {found} is used.", flush=True)
    return found


def count_shared(
    dataset: str, data_dir: str | None, split: str, test_split: str
) -> int:
    """Returns how many images of a test split are also in another split."""
    builder = open_builder(dataset, data_dir)
    prepare(builder, dataset)
    trained, tested = (
        require_split(builder, name).file_instructions
        for name in (split, test_split)
    )
    count = 0
    for test in tested:
        is_shared = np.zeros([test.take], bool)
        for train in trained:
            if train.filename == test.filename:
                start = train.skip - test.skip
                is_shared[max(0, start) : max(0, start + train.take)] = True
        count += int(is_shared.sum())
    return count


def open_builder(
    dataset: str, data_dir: str | None
) -> tfds.core.DatasetBuilder:
    """Finds a builder by name."""
    if data_dir is not None:
        data_dir = _local_data_dir(data_dir, dataset)
    try:
        # TFDS prints a banner about packages of other projects.
        with contextlib.redirect_stdout(io.StringIO()):
            return tfds.builder(dataset, data_dir=data_dir)
    except ImportError as error:
        raise UsageError(
            "`dataset` must be one whose packages are installed. Received: "
            f"dataset={dataset!r}, which needs {error.name}."
        ) from error
    except tf.errors.OpError as error:
        raise UsageError(
            "`dataset` must be a TFDS dataset that can be reached. Received: "
            f"dataset={dataset!r} ({error.message.splitlines()[0]})."
        ) from error
    except (ValueError, AssertionError) as error:
        reason = ""
        if not isinstance(error, tfds.core.DatasetNotFoundError):
            # The text that TFDS adds repeats the arguments.
            reason = str(error).partition('}": ')[2] or str(error)
            first_sentence = re.split(r"[.]?\s*\n|[.] |[.]$", reason)[0]
            reason = f" ({first_sentence})"
        raise UsageError(
            "`dataset` must be a TFDS dataset; all are listed at "
            "https://www.tensorflow.org/datasets/catalog. Received: "
            f"dataset={dataset!r}{reason}.{_suggestion(dataset)}"
        ) from error


def _local_data_dir(data_dir: str, dataset: str) -> str:
    """Returns a local directory; of a URL, only the dataset is copied."""
    if not is_url(data_dir):
        return local_path(data_dir, "data_dir")
    name = re.split("[/:]", dataset)[0]
    # TFDS may prepare a dataset in it.
    copy = local_path(os.path.join(data_dir, name), "data_dir", "output")
    return os.path.dirname(copy)


def _suggestion(dataset: str) -> str:
    """Suggests datasets, or configurations of one, with similar names."""
    known = tfds.list_builders(with_community_datasets=False)
    name = re.split("[/:]", dataset)[0]
    if name in known:
        configs = tfds.builder_cls(name).BUILDER_CONFIGS
        known = [f"{name}/{config.name}" for config in configs]
    return did_you_mean(dataset, known, most=3)


def prepare(builder: tfds.core.DatasetBuilder, dataset: str) -> None:
    """Downloads and prepares a dataset, unless it is already prepared.

    Raises:
        UsageError: If files are missing that must be downloaded manually,
            files cannot be downloaded, or a package is missing.
        OSError: If they cannot be written.
    """
    try:
        with _without_bars(builder):
            builder.download_and_prepare()
    except AssertionError as error:
        versions = [
            tfds.core.Version(path.name)
            for path in pathlib.Path(builder.data_dir).parent.glob("*")
            if tfds.core.Version.is_valid(path.name)
            and (path / "dataset_info.json").exists()
        ]
        hint = ""
        if versions:
            name = builder.info.full_name.rpartition("/")[0]
            hint = (
                " Other versions are available: "
                f"--dataset={name}:{max(versions)}."
            )
        raise UsageError(
            "`dataset` must be prepared, or be one that TFDS can download. "
            f"Received: dataset={dataset!r}, which is not in "
            f"{builder.data_dir}.{hint} {error}"
        ) from error
    except (
        OSError,
        ImportError,
        tfds.core.download.DownloadError,
        NonMatchingChecksumError,
    ) as error:
        if getattr(error, "errno", None) is not None:  # An error of the disk.
            raise
        reason = shown(f"{type(error).__name__}: {error}", UNTRUSTED_LIMIT)
        cure = "Give the directory of a prepared dataset with --data_dir."
        if isinstance(error, ImportError):
            cure = "Install the package that it needs."
        raise UsageError(
            "`dataset` must be prepared, or be one that TFDS can download. "
            f"Received: dataset={dataset!r}, which is not in "
            f"{builder.data_dir} ({reason}). {cure}"
        ) from error


def require_tfrecord(builder: tfds.core.DatasetBuilder) -> None:
    """Raises UsageError unless a prepared dataset can be read by tf.data."""
    file_format = builder.info.file_format
    if file_format != tfds.core.FileFormat.TFRECORD:
        raise UsageError(
            f"{builder.name} must be stored as tfrecord. Received: "
            f"file_format={file_format and file_format.value} in "
            f"{builder.data_dir}. Prepare it with file_format='tfrecord' in "
            "another --data_dir."
        )


def is_available(dataset: str, data_dir: str | None) -> bool:
    """Returns whether a dataset can be read without a download."""
    builder = open_builder(dataset, data_dir)
    is_made_here = builder.name == digits.InstdiscDigits.name
    return is_made_here or builder.is_prepared()


@contextlib.contextmanager
def _without_bars(builder: tfds.core.DatasetBuilder) -> Iterator[None]:
    """Hides TFDS' progress bars and messages while it prepares the digits."""
    if builder.name != digits.InstdiscDigits.name:
        yield
        return
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()


def require_split(
    builder: tfds.core.DatasetBuilder, split: str
) -> tfds.core.SplitInfo:
    """Returns information on a split, which must exist and not be empty."""
    reason = "it is empty."
    try:
        info = builder.info.splits[split]
        if info.num_examples:
            return info
    except (KeyError, ValueError) as error:
        reason = str(error)
    raise UsageError(
        f"`split` must be one of {', '.join(builder.info.splits)}, or a part "
        f"of one such as 'train[:1000]'. Received: split={split!r}: {reason}"
    )
