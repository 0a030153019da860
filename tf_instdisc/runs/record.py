"""The content of `run.json`: a run's settings, and facts about its images."""

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

from tf_instdisc.config.data import OF_A_DATASET
from tf_instdisc.config.fields import read_flagfile
from tf_instdisc.config.run import (
    RunConfig,
    differences,
    from_flags,
    from_json,
)
from tf_instdisc.errors import UsageError
from tf_instdisc.paths import is_url

FORMAT = 2
_FACTS = (
    "images",
    "num_instances",
    "unreadable_images",
    "names_of_images",
    "converted_from",
)
# Settings of folders that are read again after the run.
_FOLDERS = ("images", "test_images", "data_dir")


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """The settings of a run, and facts that must not change.

    Attributes:
        config: The settings.
        facts: Values for JSON, by name: `images`, the name of the source;
            `num_instances`; `unreadable_images`, a count; `names_of_images`, a
            digest; `converted_from`, the file of a converted run.
    """

    config: RunConfig
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def with_data(self, **changes: Any) -> "RunRecord":
        """Returns a copy with other settings of the images."""
        data = dataclasses.replace(self.config.data, **changes)
        config = dataclasses.replace(self.config, data=data)
        return dataclasses.replace(self, config=config)

    def places(self) -> dict[str, str]:
        """Returns the folders of the images by setting, without None."""
        places = {n: getattr(self.config.data, n) for n in _FOLDERS}
        return {n: place for n, place in places.items() if place is not None}

    def moved_to(self, other: "RunRecord") -> "RunRecord":
        """Returns a copy with the places and the name of another's images."""
        moved = self.with_data(**other.places())
        facts = {**self.facts, "images": other.facts.get("images")}
        return dataclasses.replace(moved, facts=facts)

    def text(self) -> str:
        """Returns the content of `run.json`."""
        content = {
            "format": FORMAT,
            "config": dataclasses.asdict(self.config),
            "facts": dict(self.facts),
        }
        if _relative_folders(self.config):
            content["directory"] = _current_directory()
        return json.dumps(content, indent=1) + "\n"


def parse(content: Mapping[str, Any]) -> RunRecord:
    """Reads the content of `run.json`.

    Raises:
        UsageError: If it was written by a later version.
    """
    if content["format"] > FORMAT:
        raise UsageError(
            f"`run.json` must have format {FORMAT} or less. Received: "
            f"format={content['format']}. Use the version of tf_instdisc that "
            "wrote it, or a later one."
        )
    config = dict(content["config"])
    method = config.get("method", {})
    # Earlier versions accepted the two together. A checkpoint is the same with
    # each placement.
    if (method.get("negatives"), method.get("bank_placement")) == (
        "per_example",
        "sharded",
    ):
        config["method"] = {**method, "bank_placement": "device"}
    written = RunRecord(from_json(config), content["facts"])
    return _located(written, content.get("directory"))


def _located(written: RunRecord, directory: str | None) -> RunRecord:
    """Resolves relative folders against the directory where they were written.

    Where they are no longer found there, as in a project that was moved, they
    stay relative to the current directory.
    """
    if directory is None or directory == _current_directory():
        return written
    changes = {}
    for name in _relative_folders(written.config):
        given = getattr(written.config.data, name)
        path = os.path.normpath(os.path.join(directory, given))
        if os.path.exists(path):
            changes[name] = path
    return written.with_data(**changes)


def _relative_folders(config: RunConfig) -> list[str]:
    """Returns the names of the settings that are relative paths."""
    return [
        name
        for name in _FOLDERS
        if (path := getattr(config.data, name))
        and not is_url(path)
        and not os.path.isabs(path)
    ]


def _current_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # It was removed.
        return None


def parse_first_format(settings: Mapping[str, Any], flagfile: str) -> RunRecord:
    """Reads a run of the first format, whose settings were a flagfile."""
    values = read_flagfile(flagfile)
    if "images" in values:
        # They had no effect with a folder, but were written along with it.
        values = {n: v for n, v in values.items() if n not in OF_A_DATASET}
    scaling = values.get("learning_rate_scaling")
    if scaling == "sqrt" and "learning_rate" in settings:
        values["learning_rate"] = str(settings["learning_rate"])
        values["learning_rate_scaling"] = "none"
    facts = {name: settings[name] for name in _FACTS if name in settings}
    return RunRecord(from_flags(values), facts)


def changes(
    old: RunRecord, new: RunRecord
) -> tuple[dict[str, tuple[Any, Any]], dict[str, tuple[Any, Any]]]:
    """Returns old and new values of what changes when a run continues.

    Returns:
        Settings and facts that may change, and those that must not.
    """
    changed, refused = differences(old.config, new.config)
    for name in _FACTS:
        pair = old.facts.get(name), new.facts.get(name)
        if pair[0] != pair[1]:
            refused[name] = pair
    has_same_names = "names_of_images" in old.facts.keys() - refused.keys()
    if new.config.data.images and has_same_names and "images" in refused:
        # The folder was renamed, or is another one with files of equal names.
        changed["images"] = refused.pop("images")
    return changed, refused
