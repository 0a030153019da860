"""Default settings of a run over a folder, derived from its images."""

import dataclasses
import os
import pathlib
import sys
import textwrap
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from absl import flags

from tf_instdisc.config import DataConfig, RunConfig, recipes
from tf_instdisc.config.fields import flag_of, read_flagfile
from tf_instdisc.config.run import from_flags
from tf_instdisc.data.folder_listing import image_paths
from tf_instdisc.paths import local_path

_RECIPE = "photos"
_UNKNOWN_SIDE = 128
_OF_THE_ENCODER = {"encoder", "width"}
_OF_THE_OPTIMIZER = {"learning_rate", "weight_decay"}
_MOST_MEASURED = 64
_MOST_FOR_SOFTMAX = 50_000
# Largest number of images, and width, batch size and epochs.
_ON_CPUS = ((500, 32, 16, 200), (2_000, 32, 32, 100), (20_000, 16, 64, 50))
_FOR_MORE_ON_CPUS = (16, 64, 20)
_ON_GPUS = ((500, 64, 32, 200), (2_000, 64, 64, 200), (20_000, 64, 128, 200))
_FOR_MORE_ON_GPUS = (64, 256, 100)


def default_run_dir(data: DataConfig, recipe: str | None) -> str:
    """Returns where a run goes: runs/ and the name of its images or recipe."""
    name = recipe or data.dataset or ""
    if data.images:
        name = os.path.basename(os.path.abspath(data.images))
    name = name.replace("/", "_").replace(":", "_")
    return os.path.join("runs", name or "images")


def config_of(
    groups: Sequence[Any], recipe: str | None, run_dir: str
) -> RunConfig:
    """Creates the settings of a run from those of its flags.

    With a folder of images and neither a recipe nor a flagfile, flags that are
    not given follow from the images, and are printed. If the run continues, or
    starts from another one, they are those of the earlier run instead.
    """
    data = groups[0]
    has_flagfile = any(
        argument.lstrip("-").partition("=")[0] == "flagfile"
        for argument in sys.argv[1:]
    )
    if not data.images or recipe or has_flagfile:
        return RunConfig(*groups)

    from tf_instdisc.runs import shipped
    from tf_instdisc.runs.directory import RunDirectory

    suited = _flags_for_folder(data.images)
    earlier = None
    init_run = groups[-1].init_run
    for place in (run_dir, init_run and shipped.located(init_run)):
        run = RunDirectory(pathlib.Path(place or ""))
        if place and run.settings.exists():
            earlier = run.read_config()
            break
    names = {name for name in suited if not flags.FLAGS[name].present}
    if flags.FLAGS["init_encoder"].present:
        names -= _OF_THE_ENCODER
    reference = earlier or from_flags(suited)
    optimizer = flags.FLAGS["optimizer"]
    if optimizer.present and optimizer.value != reference.optimizer.optimizer:
        names -= _OF_THE_OPTIMIZER
    chosen = _values(reference, names)
    if not earlier:
        _print(suited, names)
    elif "epochs" in chosen:
        # If the run was tried for one epoch, the same command trains it fully;
        # a run from another machine keeps its number of epochs.
        chosen["epochs"] = max(chosen["epochs"], int(suited["epochs"]))
    return RunConfig(*(_filled(group, chosen) for group in groups))


def _flags_for_folder(folder: str) -> dict[str, str]:
    """Returns the flags that suit a folder of images, by name."""
    import tensorflow as tf

    folder = local_path(folder, "images")
    names = image_paths(folder, is_reported=False)
    side = typical_shorter_side(folder, names) or _UNKNOWN_SIDE
    num_gpus = len(tf.config.list_physical_devices("GPU"))
    recipe = recipes.path_of(_RECIPE).read_text(encoding="utf-8")
    found = folder_defaults(len(names), side, num_gpus)
    return read_flagfile(recipe) | {n: str(v) for n, v in found.items()}


def folder_defaults(
    num_images: int, shorter_side: int, num_gpus: int = 0
) -> dict[str, Any]:
    """Returns the flags in which a folder differs from the recipe `photos`.

    On two CPU cores, 50 photographs then take a few minutes, 1,000 ten
    minutes to half an hour, and 100,000 a night. The batch is rounded up to a
    multiple of the number of GPUs.

    The encoder's input has 128 pixels. Images with less than 96 pixels on
    their shorter side get 64 on a GPU, and 32 on CPUs or below 48 pixels. The
    objective is the exact softmax up to 50,000 images, and NCE with 4,096
    negatives above, whose step does not grow with the number of images. A
    tenth of the images vote in kNN, but at most 200.

    Args:
        num_images: Number of images in the folder, at least 1.
        shorter_side: A typical length of the images' shorter side, in pixels.
        num_gpus: Number of GPUs; 0 if the CPU trains.

    Returns:
        Values by the names of the flags.
    """
    sizes, more = _ON_CPUS, _FOR_MORE_ON_CPUS
    if num_gpus:
        sizes, more = _ON_GPUS, _FOR_MORE_ON_GPUS
    width, batch_size, epochs = next(
        (values for most, *values in sizes if num_images <= most), more
    )
    replicas = max(num_gpus, 1)
    image_size = 128
    if shorter_side < 96:
        image_size = 64 if num_gpus and shorter_side >= 48 else 32
    is_small = num_images <= _MOST_FOR_SOFTMAX
    return {
        "image_size": image_size,
        "width": width,
        "objective": "softmax" if is_small else "nce",
        "num_negatives": min(4096, num_images),
        "batch_size": -(-batch_size // replicas) * replicas,
        "epochs": epochs,
        "num_neighbors": min(200, max(1, num_images // 10)),
    }


def typical_shorter_side(folder: str, names: Sequence[str]) -> int | None:
    """Returns the median shorter side of up to 64 images, in pixels.

    None if none of these files is an image. It does not use TensorFlow, whose
    devices can no longer be configured after the first operation.
    """
    import numpy as np
    from PIL import Image

    step = -(-len(names) // _MOST_MEASURED)
    sides = []
    for name in names[::step]:
        try:
            with (
                warnings.catch_warnings(action="ignore"),
                Image.open(os.path.join(folder, name)) as image,
            ):
                sides.append(min(image.size))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue  # Which files can be read is reported later.
    return int(np.median(sides)) if sides else None


def _values(config: RunConfig, names: Collection[str]) -> dict[str, Any]:
    """Returns the values of flags, by the names of the settings."""
    groups = [getattr(config, f.name) for f in dataclasses.fields(config)]
    return {
        field.name: getattr(group, field.name)
        for group in groups
        for field in dataclasses.fields(group)
        if flag_of(field) in names
    }


def _filled(group: Any, chosen: Mapping[str, Any]) -> Any:
    """Returns a group with the chosen values of its settings."""
    fields = dataclasses.fields(group)
    changes = {f.name: chosen[f.name] for f in fields if f.name in chosen}
    return dataclasses.replace(group, **changes)


def _print(suited: Mapping[str, str], names: Collection[str]) -> None:
    """Prints the chosen flags, ready to be given with other values."""
    given = " ".join(f"--{name}={suited[name]}" for name in sorted(names))
    print(
        textwrap.fill(
            f"chosen for these images: {given}",
            80,
            subsequent_indent="  ",
            break_on_hyphens=False,
        )
    )
