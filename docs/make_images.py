"""Makes the figures of the README from finished runs.

  python docs/make_images.py --run_dir=runs/small --photos_dir=runs/photos
  python docs/make_images.py --curve_dir=runs/evening

The first command requires the extra `test`, chromium and chromedriver.
"""

import argparse
import io
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
sys.path.insert(0, str(ROOT))


def main() -> None:
    """Writes the figures to docs/images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run_dir", help="a CIFAR-10 run")
    parser.add_argument("--photos_dir", help="a run on photos")
    parser.add_argument("--curve_dir", help="a run with kNN during training")
    parsed = parser.parse_args()
    IMAGES.mkdir(parents=True, exist_ok=True)
    if parsed.curve_dir:
        _save("curve", _curve(pathlib.Path(parsed.curve_dir)))
    if not parsed.run_dir:
        return
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        for name, run_dir in (
            ("neighbors", parsed.run_dir),
            ("neighbors_photos", parsed.photos_dir),
        ):
            _command(
                "neighbors",
                f"--run_dir={run_dir}",
                "--query=random:6",
                "--num_neighbors=8",
                "--seed=1",
                f"--output={work / 'grid.png'}",
            )
            _save(name, Image.open(work / "grid.png"))
        _command(
            "duplicates",
            f"--run_dir={parsed.run_dir}",
            f"--output={work / 'duplicates.html'}",
        )
        _command(
            "report",
            f"--run_dir={parsed.run_dir}",
            f"--output={work / 'report.html'}",
        )
        _photograph(work / "duplicates.html", {"duplicates": None}, 560)
        _photograph(
            work / "report.html",
            {"report": None, "map": ".chart"},
            760,
        )


def _curve(run_dir: pathlib.Path) -> Image.Image:
    """Draws the kNN accuracy of a run against its hours.

    The hours are those at the median rate of its epochs, so that pauses and
    other work on the machine do not count.
    """
    from matplotlib import pyplot

    import tf_instdisc

    run = tf_instdisc.Run(run_dir)
    rate = statistics.median(line["images_per_second"] for line in run.metrics)
    batch_size = run.config.optimizer.batch_size
    measured = [record for record in run.metrics if "knn_top1" in record]
    hours = [record["step"] * batch_size / rate / 3600 for record in measured]
    accuracies = [100 * record["knn_top1"] for record in measured]
    figure, axis = pyplot.subplots(figsize=(6, 3.5), dpi=100)
    axis.plot(hours, accuracies, marker="o", markersize=3)
    axis.set_xlabel(f"hours at {rate:.0f} images/s")
    axis.set_ylabel("kNN top-1, %")
    axis.grid(alpha=0.3)
    figure.tight_layout()
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    return Image.open(drawn)


def _command(name: str, *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "tf_instdisc", name, *arguments],
        check=True,
        cwd=ROOT,
    )


def _photograph(
    page: pathlib.Path, parts: dict[str, str | None], height: int
) -> None:
    """Takes screenshots of parts of a page, or of its first screen."""
    from tests.browser import open_page

    with open_page(page, width=900, height=height) as (browser, _):
        time.sleep(5)  # The charts are drawn after the page has loaded.
        for name, selector in parts.items():
            if selector is None:
                png = browser.get_screenshot_as_png()
            else:
                part = browser.find_element("css selector", selector)
                png = part.screenshot_as_png
            _save(name, Image.open(io.BytesIO(png)))


def _save(name: str, image: Image.Image) -> None:
    path = IMAGES / f"{name}.png"
    image.convert("RGB").quantize(128).save(path, optimize=True)
    print(path.relative_to(ROOT), path.stat().st_size)


if __name__ == "__main__":
    main()
