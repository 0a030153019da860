"""Makes a table: trains and measures its runs, and writes the result."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from tf_instdisc import atomic
from tf_instdisc.config.fields import require_choice
from tf_instdisc.errors import MissingExtraError, require_extra
from tf_instdisc.evaluation.inputs import EvaluationInputs, open_labeled
from tf_instdisc.evaluation.reproduce import measure, runs, show
from tf_instdisc.evaluation.reproduce.measure import Measured
from tf_instdisc.evaluation.reproduce.runs import Run, Training
from tf_instdisc.evaluation.reproduce.tables import TABLES, Scale, Table
from tf_instdisc.runs import lock
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

    Finished runs are not trained again. Their measurements are kept in
    `NAME.json` and are not repeated unless the encoder has changed. `rows`
    names the runs to make, by default all; the table shows `command`.

    Raises:
        ValueError: If the table does not have one of the rows, or a finished
            run was trained with other settings.
    """
    table = TABLES[name]
    if rows is not None:
        table = _with_rows(table, rows)
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
    recipe = training.recipes / scale.recipes[table.recipe]
    config = runs.recipe_config(recipe, training.more)
    # All images of the recipe, even for runs that were trained on some.
    source, test_source = open_labeled(config.data)
    planned = runs.plan_runs(
        table,
        recipe,
        training.more,
        source.num_instances,
        training.num_seeds,
        training.runs_dir,
    )
    runs.require_planned_settings(planned)
    runs.train_missing(planned, training.train, training.num_jobs)
    tables_dir.mkdir(parents=True, exist_ok=True)
    kept = _Kept(tables_dir / f"{name}.json")
    measured = []
    for run in planned:
        found = kept.get(run)
        if found is None:
            print(f"measuring {shown(run.name)}", flush=True)
            inputs = EvaluationInputs(
                run.directory, config, source, test_source
            )
            with lock.holding(run.directory.path):
                found = measure.PROTOCOLS[table.protocol](run, inputs, scale)
            kept.put(run, found)
        measured.append((run, found))
    plot = f"{name}.png" if has_plot else None
    if plot:
        show.save_plot(str(tables_dir / plot), table, measured)
    text = show.markdown(table, measured, command, plot)
    atomic.write_text(tables_dir / f"{name}.md", text)
    print(text)


def _with_rows(table: Table, names: Sequence[str]) -> Table:
    known = tuple(row.run for row in table.rows)
    for name in names:
        require_choice("rows", name, known)
    rows = tuple(row for row in table.rows if row.run in names)
    return dataclasses.replace(table, rows=rows)


@dataclasses.dataclass(frozen=True)
class _Kept:
    """The measurements so far, kept in a file."""

    path: pathlib.Path

    def get(self, run: Run) -> Measured | None:
        entry = self._read().get(run.name)
        if entry is None or entry["encoder"] != run.directory.encoder_digest():
            return None
        values = {(line, column): v for line, column, v in entry["values"]}
        return Measured(values, entry["curve"])

    def put(self, run: Run, found: Measured) -> None:
        entries = self._read()
        entries[run.name] = {
            "encoder": run.directory.encoder_digest(),
            "values": [[*cell, value] for cell, value in found.values.items()],
            "curve": found.curve,
        }
        atomic.write_text(self.path, json.dumps(entries, indent=1))

    def _read(self) -> dict[str, Any]:
        if not self.path.exists():
            return {}
        return json.loads(self.path.read_text(encoding="utf-8"))
