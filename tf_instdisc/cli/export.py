"""Exports a finished run as the next version of a model for TF Serving.

Example:
  instdisc-export --run_dir=runs/digits --export_dir=models/digits
"""

import dataclasses
import shlex

from tf_instdisc import remote
from tf_instdisc.cli.options import FinishedRun
from tf_instdisc.config.fields import Settings, setting
from tf_instdisc.errors import UsageError
from tf_instdisc.serving.options import TFLITE_TYPES, ExportOptions

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
    num_votes: int | None = setting(
        None,
        "Number of neighbors that vote on the class; by default, that of the "
        "run's kNN.",
        least=1,
    )
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

    def __post_init__(self) -> None:
        super().__post_init__()
        if "int8" in self.tflite and not self.calibration_images:
            raise UsageError(
                "`calibration_images` is required with `tflite`=int8. "
                "Received: none. Give a folder of a few hundred images."
            )


SETTINGS: list[type] = [FinishedRun, WrittenOptions, ExportOptions]
# These follow the run, or have a flag above.
WITHOUT: dict[type, tuple[str, ...]] = {
    ExportOptions: ("crop_fraction", "temperature", "num_votes")
}


def main(
    finished: FinishedRun, written: WrittenOptions, signatures: ExportOptions
) -> None:
    """Writes the version, and prints how to serve it."""
    run = finished.load()

    from tf_instdisc.serving import saved_model, tflite

    options = saved_model.options_of(
        run, signatures, num_votes=written.num_votes
    )
    calibration_images = None
    if written.calibration_images:
        calibration_images = tflite.calibration_images(
            written.calibration_images,
            run.read_config().data.image_size,
            options.crop_fraction,
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
    directory = version.parent.resolve()
    name = directory.name
    mount = f"type=bind,source={directory},target=/models/{name}"
    print(
        _DOCKER.format(
            mount=shlex.quote(mount), name=shlex.quote(f"MODEL_NAME={name}")
        )
    )
