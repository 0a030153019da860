"""Shows a table as Markdown and as a plot."""

import collections
from collections.abc import Sequence

import numpy as np

from tf_instdisc import atomic
from tf_instdisc.evaluation.reproduce.measure import Measured
from tf_instdisc.evaluation.reproduce.runs import Run
from tf_instdisc.evaluation.reproduce.tables import Table
from tf_instdisc.text import markdown_table

_FRACTIONS = ("kNN", "SVM", "linear", "top1", "top5")  # Shown in percent.


def markdown(
    table: Table,
    measured: Sequence[tuple[Run, Measured]],
    command: str,
    plot: str | None,
) -> str:
    """Returns the table in Markdown, with the paper's numbers and a plot.

    Returns:
        A Markdown document. For several seeds, it shows the mean and the
        standard deviation.
    """
    values = _by_cell(measured)
    lines = list(dict.fromkeys(line for line, _ in values))
    columns = list(dict.fromkeys(column for _, column in values))
    paper = _paper(table)
    with_paper = [c for c in columns if any((n, c) in paper for n in lines)]
    header = []
    for column in columns:
        header.append(column)
        if column in with_paper:
            header.append(f"paper: {column}")
    text = [
        f"# {table.title}",
        "",
        f"Paper: arXiv 1805.01978, {table.source}. Of runs on other data or "
        "with another network, compare the order with the paper's, not the "
        "numbers.",
        "",
        f"    {command}",
        "",
        "Percentages; mean ± standard deviation of the seeds."
        if set(columns) <= set(_FRACTIONS)
        else "Accuracies in percent; mean ± standard deviation of the seeds.",
        "",
    ]
    flags = {
        line: " ".join(f"`{flag}`" for flag in run.changes)
        for run, one in measured
        for line, _ in one.values
    }
    rows = []
    for line in lines:
        cells = [line]
        for column in columns:
            found = values.get((line, column), [])
            cells.append(_mean_and_spread(found, column in _FRACTIONS))
            if column in with_paper:
                number = paper.get((line, column))
                cells.append("" if number is None else f"{100 * number:.1f}")
        seeds = max(len(values.get((line, c), [])) for c in columns)
        cells += [str(seeds), flags[line]]
        rows.append(cells)
    text.append(markdown_table(["", *header, "seeds", "flags"], rows))
    if plot is not None:
        text.append(f"![{table.title}]({plot})\n")
    return "\n".join(text)


def save_plot(
    path: str, table: Table, measured: Sequence[tuple[Run, Measured]]
) -> None:
    """Plots the measured values over the axis, or the loss curves."""
    # pyplot is avoided because it keeps global state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    if table.axis == "epoch":
        for label, curves in _curves(measured).items():
            mean = np.mean(curves, axis=0)
            axes.plot(np.arange(1, len(mean) + 1), mean, label=label)
        axes.set_ylabel("loss of the epoch")
    else:
        # The order of the table, of which not all rows may be measured.
        if order := [row.label for row in table.rows if row.paper]:
            axes.xaxis.update_units(order)
        for label, points in _series(table, measured).items():
            lines, means, spreads = map(np.array, zip(*points, strict=True))
            axes.errorbar(
                lines,
                100 * means,
                100 * spreads,
                fmt="o--" if label.startswith("paper") else "o-",
                capsize=3,
                label=label,
            )
        axes.set_ylabel("percent")
    axes.set_xlabel(table.axis or "")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    with atomic.replacing(path) as partial:
        figure.savefig(partial, dpi=120)


def _by_cell(
    measured: Sequence[tuple[Run, Measured]],
) -> dict[tuple[str, str], list[float]]:
    values = collections.defaultdict(list)
    for _, result in measured:
        for cell, value in result.values.items():
            values[cell].append(value)
    return values


def _paper(table: Table) -> dict[tuple[str, str], float]:
    rows = {
        (row.label, column): number
        for row in table.rows
        for column, number in row.paper.items()
    }
    numbers = {**rows, **table.paper}
    return {cell: n for cell, n in numbers.items() if n is not None}


def _mean_and_spread(found: Sequence[float], is_fraction: bool) -> str:
    if not found:
        return ""
    scaled = np.array(found) * (100 if is_fraction else 1)
    digits = 1 if is_fraction else 3
    text = f"{scaled.mean():.{digits}f}"
    if len(found) > 1:
        text += f" ± {scaled.std(ddof=1):.{digits}f}"
    return text


def _curves(
    measured: Sequence[tuple[Run, Measured]],
) -> dict[str, list[list[float]]]:
    curves = collections.defaultdict(list)
    for run, result in measured:
        curves[run.row.label].append(result.curve)
    return curves


def _series(
    table: Table, measured: Sequence[tuple[Run, Measured]]
) -> dict[str, list[tuple[str, float, float]]]:
    """Returns points (label, mean, spread) by the name of the series."""
    series = collections.defaultdict(list)
    for (line, column), found in _by_cell(measured).items():
        label, _, kind = line.partition(", ")
        spread = np.std(found, ddof=len(found) > 1)
        series[f"{kind or 'ours'}, {column}"].append(
            (label.split()[0], float(np.mean(found)), float(spread))
        )
    for (line, column), number in _paper(table).items():
        label, _, kind = line.partition(", ")
        name = ", ".join(filter(None, ("paper", kind, column)))
        series[name].append((label.split()[0], number, 0.0))
    return series
