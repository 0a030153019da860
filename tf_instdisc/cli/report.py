"""Writes a report about a finished run to one HTML file.

The file needs no network.

Example:
  instdisc-report --run_dir=runs/digits
"""

import dataclasses

from tf_instdisc import remote
from tf_instdisc.cli.options import (
    FinishedRun,
    MovedImages,
    make_folders,
    require_file,
)
from tf_instdisc.config.fields import Settings, setting


@dataclasses.dataclass(frozen=True)
class ReportOptions(Settings):
    """Report"""

    output: str | None = setting(
        None,
        "File to write; by default report.html in the run's directory.",
        is_path=True,
    )
    map_points: int = setting(
        3000,
        "Maximum number of images in the map, which are drawn at random.",
        least=10,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_file("output", self.output)


SETTINGS = [FinishedRun, ReportOptions, MovedImages]


def main(
    finished: FinishedRun, options: ReportOptions, moved: MovedImages
) -> None:
    """Writes the page, and prints its path."""
    from tf_instdisc.retrieval.pages import run_page
    from tf_instdisc.runs import images

    run = finished.load()
    make_folders(options.output)
    path = run_page.write_report(
        run,
        images.open_images(run, moved.overrides()),
        options.output,
        options.map_points,
    )
    print(remote.shown_path(path))
