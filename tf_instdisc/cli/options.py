"""Options that several commands share."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from tf_instdisc.config.data import DataConfig, data_overrides
from tf_instdisc.config.fields import Settings, setting
from tf_instdisc.errors import UsageError
from tf_instdisc.paths import is_url

if TYPE_CHECKING:
    from tf_instdisc.runs.directory import RunDirectory


def require_images(data: DataConfig) -> None:
    """Raises UsageError, which names the flags, unless images are given."""
    try:
        data.require_images()
    except UsageError as error:
        raise UsageError(
            str(error).replace("`dataset` or `images`", "--dataset or --images")
        ) from error


@dataclasses.dataclass(frozen=True)
class FinishedRun(Settings):
    """Trained run"""

    run_dir: str = setting(
        None,
        "Directory of a finished run, or the name of shipped weights.",
        is_path=True,
        is_required=True,
    )

    def load(self) -> "RunDirectory":
        """Opens the directory.

        Raises:
            RunDirectoryError: If it does not contain a run.
        """
        from tf_instdisc.runs import opening

        return opening.load(self.run_dir)


@dataclasses.dataclass(frozen=True)
class MovedImages(Settings):
    """Images that were moved"""

    data_dir: str | None = setting(
        None,
        "Where TFDS keeps its data, if it was moved.",
        is_path=True,
    )
    images: str | None = setting(
        None,
        "The folder of the images, if it was moved or no run is given.",
        is_path=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.overrides()) > 1:
            raise UsageError(
                "`data_dir` and `images` cannot be combined. Received: "
                f"`data_dir`={self.data_dir} and `images`={self.images}. "
                "Leave one of them out."
            )

    def overrides(self) -> dict[str, str]:
        """Returns the given options by the names of `DataConfig`."""
        return data_overrides(self)


def require_endings(
    name: str, paths: Iterable[str], endings: tuple[str, ...]
) -> None:
    """Raises UsageError unless each path ends with one of the endings."""
    for path in paths:
        if not path.endswith(endings):
            raise UsageError(
                f"`{name}` must end with {' or '.join(endings)}. "
                f"Received: `{name}`={path}"
            )


def require_file(name: str, path: str | None) -> None:
    """Raises UsageError if a path is that of a directory."""
    if path is not None and os.path.isdir(path):
        raise UsageError(
            f"`{name}` must be a file. Received: `{name}`={path}, which is a "
            "directory."
        )


def make_folders(*paths: str | None) -> None:
    """Creates the missing folders of local output files."""
    for path in paths:
        if path is not None and not is_url(path):
            pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
