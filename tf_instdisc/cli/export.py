"""Exports a finished run as the next version of a model for TF Serving.

Example:
  instdisc-export --run_dir=runs/digits --export_dir=models/digits
"""

import csv
import dataclasses
import io
import pathlib
import shlex

from tf_instdisc import remote
from tf_instdisc.cli.options import FinishedRun
from tf_instdisc.config.fields import Settings, setting
from tf_instdisc.paths import is_url
from tf_instdisc.serving.options import TFLITE_TYPES, ExportOptions
from tf_instdisc.text import shown

_DOCKER = """
docker run --rm -p 8500:8500 -p 8501:8501 \\
  --mount {mount} \\
  -e {name} tensorflow/serving:2.21.0"""


@dataclasses.dataclass(frozen=True)
class WrittenOptions(Settings):
    """Export"""

    export_dir: str = setting(
        None,
        "Directory of the model, such as models/NAME, into which the next "
        "numbered version is written.",
        is_path=True,
        is_required=True,
    )
    bank: bool = setting(True, "Include the memory bank, which neighbors need.")
    tflite: tuple[str, ...] = setting(
        (),
        "Also write the encoder for TFLite; repeatable.",
        choices=TFLITE_TYPES,
        is_repeatable=True,
    )
    calibration_images: str | None = setting(
        None,
        "Folder of a few hundred images for --tflite=int8.",
        is_path=True,
    )


SETTINGS = [FinishedRun, WrittenOptions, ExportOptions]


def main(
    finished: FinishedRun, written: WrittenOptions, options: ExportOptions
) -> None:
    """Writes the version, and prints how to serve it."""
    run = finished.load()

    from tf_instdisc.serving import saved_model, tflite

    calibration_images = None
    if written.calibration_images:
        data = run.read_config().data
        calibration_images = tflite.calibration_images(
            written.calibration_images,
            data.image_size,
            options.crop_fraction or data.crop_fraction,
        )
    version = saved_model.export_run(
        run,
        written.export_dir,
        options,
        with_bank=written.bank,
        tflite_types=tuple(dict.fromkeys(written.tflite)),
        calibration_images=calibration_images,
    )
    card = version / saved_model.MODEL_CARD
    print(remote.named(f"version: {version}\nmodel card: {card}"))
    directory: pathlib.PurePath = version.parent.resolve()
    name = directory.name
    if is_url(written.export_dir):
        # The working copy belongs to this host, and a server needs a mount.
        directory = pathlib.PurePosixPath("/models", name)
        print(
            f"Copy {shown(written.export_dir)} to {shown(str(directory))} on "
            "the host of the server, then run there:"
        )
    # Docker reads it as a row of CSV, in which a path may contain commas.
    mount = io.StringIO()
    fields = ["type=bind", f"source={directory}", f"target=/models/{name}"]
    csv.writer(mount, lineterminator="").writerow(fields)
    print(
        _DOCKER.format(
            mount=shlex.quote(mount.getvalue()),
            name=shlex.quote(f"MODEL_NAME={name}"),
        )
    )
