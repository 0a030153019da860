"""Default settings of a run over a folder, derived from its images."""

import dataclasses
import os
import pathlib
import sys
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from absl import flags

from tf_instdisc.config import DataConfig, RunConfig, recipes
from tf_instdisc.config.fields import flag_of, read_flagfile
from tf_instdisc.config.folder_defaults import folder_defaults
from tf_instdisc.config.run import from_flags
from tf_instdisc.data.folder_listing import image_paths
from tf_instdisc.paths import local_path

_RECIPE = "photos"
_UNKNOWN_SIDE = 128
# The defaults of these belong to the default optimizer.
_OF_THE_ENCODER = {"encoder", "width"}
_OF_THE_OPTIMIZER = {"learning_rate", "weight_decay"}


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
    optimizer = flags.FLAGS["optimizer"]
    names = {name for name in suited if not flags.FLAGS[name].present}

    def names_for(its_optimizer: str) -> set[str]:
        """Leaves out what suits another optimizer than the given one."""
        is_other = optimizer.present and optimizer.value != its_optimizer
        return names - _OF_THE_OPTIMIZER if is_other else names

    if flags.FLAGS["init_encoder"].present:
        names -= _OF_THE_ENCODER
    chosen = _values(from_flags(suited), names_for(suited["optimizer"]))
    if earlier:
        values = _values(earlier, names_for(earlier.optimizer.optimizer))
        if "epochs" in values:
            # A run that was tried for one epoch is trained by the same
            # command, and one of another machine keeps its epochs.
            values["epochs"] = max(values["epochs"], chosen["epochs"])
        chosen |= values
    else:
        _print(suited, names_for(suited["optimizer"]))
    return RunConfig(*(_filled(group, chosen) for group in groups))


def _flags_for_folder(folder: str) -> dict[str, str]:
    """Returns the flags that suit a folder of images, by name."""
    import tensorflow as tf

    from tf_instdisc.data.image_sizes import typical_shorter_side

    folder = local_path(folder, "images")
    names = image_paths(folder, is_reported=False)
    side = typical_shorter_side(folder, names) or _UNKNOWN_SIDE
    num_gpus = len(tf.config.list_physical_devices("GPU"))
    recipe = recipes.path_of(_RECIPE).read_text(encoding="utf-8")
    found = folder_defaults(len(names), side, num_gpus)
    return read_flagfile(recipe) | {n: str(v) for n, v in found.items()}


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
