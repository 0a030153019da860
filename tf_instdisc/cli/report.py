"""instdisc-report: writes a page that shows what a run has learned."""

import dataclasses

from tf_instdisc import remote
from tf_instdisc.cli.launch import launch
from tf_instdisc.cli.options import (
    FinishedRun,
    MovedImages,
    require_local_files,
)
from tf_instdisc.config import TrainingConfig
from tf_instdisc.config.fields import Settings, setting
from tf_instdisc.text import shown

_SUMMARY = """
Writes a report about a finished run to one HTML file, which needs no network.

  instdisc-report --run_dir=runs/digits
"""


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
    num_neighbors: int = setting(
        TrainingConfig.num_neighbors,
        "Number of neighbors that vote in kNN.",
        least=1,
    )
    threshold: float | None = setting(
        None,
        "Minimum cosine of near-duplicates; by default, they are found as by "
        "instdisc-duplicates.",
        least=0.01,
        most=1,
    )
    seed: int = setting(0, "Random seed of the sample.", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output is not None:
            require_local_files("output", [self.output])


SETTINGS = [FinishedRun, ReportOptions, MovedImages]


def main() -> None:
    """Entry point of `instdisc-report`."""
    launch(_report, _SUMMARY, SETTINGS)


def _report(
    finished: FinishedRun, options: ReportOptions, moved: MovedImages
) -> None:
    from tf_instdisc.retrieval.pages import pages, run_page
    from tf_instdisc.runs import images, lock

    run = finished.load()
    page = run_page.report(
        run,
        images.open_images(run, moved.overrides()),
        max_points=options.map_points,
        threshold=options.threshold,
        num_neighbors=options.num_neighbors,
        seed=options.seed,
    )
    path = options.output or run.report
    with lock.holding_if_remote(None if options.output else run.path):
        pages.write(path, page)
    print(shown(remote.named(str(path))))


if __name__ == "__main__":
    main()
