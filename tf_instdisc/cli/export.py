"""instdisc-export: a run directory to the next version of a served model."""

import shlex

from absl import flags

from tf_instdisc.cli.flag_groups import export, finished_run
from tf_instdisc.cli.launch import launch

GROUPS = (finished_run, export)

_SUMMARY = """
Writes the next version of a model for TF Serving, whole or not at all.

  instdisc-export --run_dir=runs/digits --export_dir=models/digits
"""

_DOCKER = """
docker run --rm -p 8500:8500 -p 8501:8501 \\
  --mount {mount} \\
  -e {name} tensorflow/serving:2.21.0"""


def main() -> None:
    """Entry point of `instdisc-export`."""
    flags.mark_flag_as_required("run_dir")
    launch(_export, _SUMMARY, GROUPS)


def _export() -> None:
    from tf_instdisc.runs import opening

    run = opening.load(finished_run.RUN_DIR.value or "")

    from tf_instdisc.serving import saved_model

    options = saved_model.options_of(
        run,
        image_dtype=export.IMAGE_DTYPE.value,
        precision=export.PRECISION.value,
        bank_dtype=export.BANK_DTYPE.value,
        num_neighbors=export.NUM_NEIGHBORS.value,
        num_votes=export.NUM_VOTES.value,
        bad_bytes=export.BAD_BYTES.value,
        max_pixels=export.MAX_PIXELS.value,
        batch_sizes=tuple(int(size) for size in export.BATCH_SIZES.value),
    )
    calibration_images = None
    if export.CALIBRATION_IMAGES.value:
        calibration_images = _images(run, options.crop_fraction)
    version = saved_model.export_run(
        run,
        export.EXPORT_DIR.value or "",
        options,
        with_bank=export.BANK.value,
        tflite_types=tuple(dict.fromkeys(export.TFLITE.value)),
        calibration_images=calibration_images,
    )
    directory = version.parent.resolve()
    print(f"version: {version}\nmodel card: {version / saved_model.MODEL_CARD}")
    name = directory.name
    mount = f"type=bind,source={directory},target=/models/{name}"
    print(
        _DOCKER.format(
            mount=shlex.quote(mount), name=shlex.quote(f"MODEL_NAME={name}")
        )
    )


def _images(run, crop_fraction):
    import numpy as np

    from tf_instdisc.data.folder import folder_source
    from tf_instdisc.data.pipeline import evaluation_dataset
    from tf_instdisc.runs.load import load_encoder

    source = folder_source(export.CALIBRATION_IMAGES.value or "", "skip")
    image_size = load_encoder(run.path).input_shape[1]
    batches = evaluation_dataset(source, image_size, 32, crop_fraction)
    return np.concatenate([images for images, _, _ in batches])


if __name__ == "__main__":
    main()
