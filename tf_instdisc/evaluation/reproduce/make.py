"""Makes a table: trains and measures its runs, and writes the result."""

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from tf_instdisc import atomic, remote
from tf_instdisc.config import recipes
from tf_instdisc.config.fields import require_choice
from tf_instdisc.errors import MissingExtraError, require_extra
from tf_instdisc.evaluation.inputs import open_labeled
from tf_instdisc.evaluation.reproduce import measure, runs, show
from tf_instdisc.evaluation.reproduce.measure import Measured
from tf_instdisc.evaluation.reproduce.runs import Run, Training
from tf_instdisc.evaluation.reproduce.tables import TABLES, Scale
from tf_instdisc.text import shown


def make_table(
    name: str,
    scale: Scale,
    training: Training,
    tables_dir: pathlib.Path,
    command: str,
    rows: Sequence[str] | None = None,
) -> None:
    """Writes `NAME.md`, and `NAME.png` if the paper has a figure.

    Finished runs are not trained again. Their measurements are kept in the
    folder `NAME`, in one file for each run, and are not repeated unless the
    encoder has changed. `rows` names the runs to make, by default all. The
    table shows `command`, and also the other rows that are measured already,
    possibly by another machine.

    Raises:
        UsageError: If the table does not have one of the rows, or a finished
            run was trained with other settings.
    """
    table = TABLES[name]
    known = tuple(row.run for row in table.rows)
    for row in rows or ():
        require_choice("rows", row, known)
    has_plot = table.axis is not None
    if has_plot:
        try:
            require_extra("report", "matplotlib")
        except MissingExtraError as error:
            has_plot = False
            print(
                f"warning: The table will have no plot. {error}",
                file=sys.stderr,
            )
    recipe = recipes.FOLDER / scale.recipes[table.recipe]
    data = runs.recipe_config(recipe, training.more).data
    source, _ = open_labeled(data)
    planned = runs.plan_runs(
        table,
        recipe,
        training.more,
        source.num_instances,
        training.num_seeds,
        training.runs_dir,
    )
    wanted = [run for run in planned if rows is None or run.row.run in rows]
    runs.require_planned_settings(wanted)
    runs.train_missing(wanted, training.train, training.num_jobs)
    # All images of the recipe, even for runs that were trained on some.
    overrides = {"split": data.split}
    if data.data_dir is not None:
        overrides["data_dir"] = data.data_dir
    folder = tables_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    for run in wanted:
        file = _file_of(run, folder)
        if not _is_measured(run, file):
            print(f"measuring {shown(run.name)}", flush=True)
            _save(measure.measure(run, table, scale, overrides), run, file)
            remote.send(file)
    # Only now, as other machines may have measured their rows meanwhile.
    remote.refresh(folder)
    measured = []
    for run in planned:
        entry = _read(_file_of(run, folder))
        if run in wanted or entry.get("flags") == run.changes:
            values = {(line, column): v for line, column, v in entry["values"]}
            measured.append((run, Measured(values, entry["curve"])))
    plot = f"{name}.png" if has_plot else None
    if plot:
        show.save_plot(str(tables_dir / plot), table, measured)
    text = show.markdown(table, measured, command, plot)
    atomic.write_text(tables_dir / f"{name}.md", text)
    print(text)


def _file_of(run: Run, folder: pathlib.Path) -> pathlib.Path:
    return folder / ("-".join(pathlib.PurePath(run.name).parts[-3:]) + ".json")


def _is_measured(run: Run, file: pathlib.Path) -> bool:
    entry = _read(file)
    found = entry.get("run"), entry.get("encoder")
    return found == (run.name, run.directory.encoder_digest())


def _save(found: Measured, run: Run, file: pathlib.Path) -> None:
    """Keeps measurements in a file of their own.

    Machines that make other rows of the same table do not write to it.
    """
    entry = {
        "run": run.name,
        "flags": run.changes,
        "encoder": run.directory.encoder_digest(),
        "values": [[*cell, value] for cell, value in found.values.items()],
        "curve": found.curve,
    }
    atomic.write_text(file, json.dumps(entry, indent=1))


def _read(file: pathlib.Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        print(
            f"warning: {shown(str(file))} is damaged, and its run is measured "
            "again.",
            file=sys.stderr,
        )
        return {}
