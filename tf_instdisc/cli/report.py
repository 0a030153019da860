"""instdisc-report: one page that shows what a run has learned."""

from tf_instdisc.cli.flag_groups import finished_run, moved_images, report
from tf_instdisc.cli.launch import launch
from tf_instdisc.text import shown

GROUPS = (finished_run, report, moved_images)

_SUMMARY = """
Writes one HTML file, which needs no network, about a finished run.

  instdisc-report --run_dir=runs/digits
"""


def main() -> None:
    """Entry point of `instdisc-report`."""
    launch(_report, _SUMMARY, GROUPS)


def _report() -> None:
    from tf_instdisc.retrieval.pages import pages, run_page
    from tf_instdisc.runs import images, opening

    run = opening.load(finished_run.RUN_DIR.value or "")
    page = run_page.report(
        run,
        images.open_images(run, moved_images.overrides()),
        max_points=report.MAP_POINTS.value,
        threshold=report.THRESHOLD.value,
        num_neighbors=report.NUM_NEIGHBORS.value,
        seed=report.SEED.value,
    )
    path = report.OUTPUT.value or run.report
    pages.write(path, page)
    print(shown(str(path)))


if __name__ == "__main__":
    main()
