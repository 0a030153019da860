"""The report of a run: a page that shows what it has learned."""

import dataclasses
import os
from typing import Any

import bokeh.embed
import bokeh.resources
import numpy as np

from tf_instdisc.errors import UsageError
from tf_instdisc.retrieval import analysis, duplicate_lines, neighbor_rows
from tf_instdisc.retrieval.bank_statistics import (
    bank_statistics,
    health_warnings,
)
from tf_instdisc.retrieval.duplicates import find_duplicates
from tf_instdisc.retrieval.pages import charts, duplicate_page, pages
from tf_instdisc.retrieval.pages.pages import data_uri, sheet
from tf_instdisc.retrieval.queries import nearest, random_queries
from tf_instdisc.runs import checkpoints, lock
from tf_instdisc.runs.bank import Bank, sample_rows
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.runs.images import RunImages

_PICTURE = 96  # pixels
_SHEET_PICTURE = 32
_QUERIES = 8
_NEIGHBORS = 8
_SHOWN = 18  # Hardest and most isolated images.
_OF_CLUSTER = 6
_GROUPS_SHOWN = 12
_CLASSES_SHOWN = 40  # In the confusion matrix.
_DUPLICATES_UP_TO = 60_000  # More rows would take minutes.

_Captioned = list[tuple[int, str]]  # Rows of the bank with their captions.


def write_report(
    run: RunDirectory,
    images: RunImages,
    output: str | os.PathLike | None = None,
    max_points: int = 3000,
) -> str | os.PathLike:
    """Writes the page, which needs no network, and returns its path.

    Args:
        run: A finished run.
        images: Its images; pictures of missing ones are gray.
        output: By default, the page is in the run's directory.
        max_points: If there are more rows, this number is drawn for the map,
            the classification and the pictures.

    Raises:
        UsageError: If there is only one image.
    """
    bank = images.bank
    if len(bank.rows) < 2:
        raise UsageError(
            "A report needs at least 2 images. Received: "
            f"{len(bank.rows)} in {run.path}"
        )
    metrics = run.read_metrics()
    last = metrics[-1] if metrics else {}
    statistics = bank_statistics(bank.rows)

    sampled = sample_rows(len(bank.rows), max_points)
    on_sheet, found = images.read(
        sampled, min(_SHEET_PICTURE, images.image_size)
    )
    num_neighbors = images.config.training.num_neighbors
    votes = analysis.classify_rows(
        bank, sampled, num_neighbors, images.config.method.temperature
    )
    groups = analysis.groups_of(bank, sampled, charts.NUM_COLORS)
    figures: dict[str, Any] = {
        "map": charts.embedding_map(
            analysis.map_of(bank.rows[sampled]),
            groups.of_rows,
            [str(name) for name in bank.names[sampled]],
            groups.captions,
            int(np.ceil(np.sqrt(len(sampled)))),
        )
    }
    # TensorBoard has the other metrics.
    curve = charts.curve(metrics, "knn_top1", "kNN top-1")
    if curve is not None:
        figures["curve"] = curve
    script, divs = bokeh.embed.components(figures)
    lists = {"isolated": _most_isolated(votes)}
    if votes.predicted is not None:
        lists["hardest"] = _hardest(bank, votes)
    if groups.are_clusters:
        lists.update(_clusters(bank, sampled, groups))
    queries = random_queries(images, _QUERIES)
    page = pages.render(
        "report.html",
        run_name=run.path.resolve().name,
        facts=_facts(run, bank, last, statistics),
        warnings=health_warnings(
            statistics, last.get("loss"), last.get("weight_growth")
        ),
        library=bokeh.resources.Resources(
            mode="inline", components=["bokeh"]
        ).render_js(),
        script=script,
        divs=divs,
        rows=neighbor_rows.grid_rows(
            queries, nearest(queries, bank, _NEIGHBORS), images, _PICTURE
        ),
        legend=charts.legend(groups.names),
        groups=groups,
        sheet=data_uri(sheet(on_sheet), quality=70),
        lists=_with_pictures(images, lists),
        confusion=_confusion(bank, votes),
        duplicates=_duplicates(images, sampled),
        flags=images.config.flags(),
        num_sampled=len(sampled),
        num_rows=len(bank.rows),
        num_missing=int((~found).sum()),
        num_neighbors=min(num_neighbors, len(bank.rows) - 1),
        num_classes=len(bank.class_names),
    )
    path = output or run.report
    with lock.holding_if_remote(None if output else run.path):
        pages.write(os.fspath(path), page)
    return path


def _facts(
    run: RunDirectory,
    bank: Bank,
    last: dict[str, float],
    statistics: dict[str, float],
) -> dict[str, str]:
    facts = {"images": f"{len(bank.rows):,}"}
    if bank.class_names:
        facts["classes"] = str(len(bank.class_names))
    for name, title, form in (
        ("epoch", "epochs", "{:.0f}"),
        ("loss", "loss", "{:.3f}"),
        ("knn_top1", "kNN top-1", "{:.1%}"),
    ):
        if name in last:
            facts[title] = form.format(last[name])
    # What the run measured before it was trained.
    baselines = checkpoints.newest_progress(run.checkpoints).get(
        "baselines", {}
    )
    for name, (top1, *_) in baselines.items():
        facts[f"kNN, {name}"] = f"{top1:.1%}"
    rank, dim = statistics["effective_rank"], bank.rows.shape[1]
    facts["effective rank"] = f"{rank:.0f} of {dim}"
    return facts


def _clusters(
    bank: Bank, sampled: np.ndarray, groups: analysis.Groups
) -> dict[str, _Captioned]:
    """Returns the images closest to the center of each cluster."""
    lists = {}
    for number, name in enumerate(groups.names):
        members = sampled[groups.of_rows == number]
        rows = bank.rows[members]
        closest = np.argsort(-rows @ rows.mean(axis=0), kind="stable")
        lists[name] = [
            (position, neighbor_rows.class_name(bank, bank.labels[position]))
            for position in members[closest[:_OF_CLUSTER]]
        ]
    return lists


def _hardest(bank: Bank, votes: analysis.Votes) -> _Captioned:
    """Returns the images whose neighbors vote least for their label."""
    predicted = np.asarray(votes.predicted)
    labels, names = bank.labels[votes.positions], bank.class_names
    order = np.argsort(np.asarray(votes.own_fraction), kind="stable")
    order = order[predicted[order] != labels[order]]
    return [
        (votes.positions[i], f"{names[labels[i]]} → {names[predicted[i]]}")
        for i in order[:_SHOWN]
    ]


def _most_isolated(votes: analysis.Votes) -> _Captioned:
    """Returns the images whose nearest neighbor is farthest away."""
    order = np.argsort(votes.nearest, kind="stable")
    return [
        (votes.positions[i], f"nearest {votes.nearest[i]:.2f}")
        for i in order[:_SHOWN]
    ]


def _with_pictures(
    images: RunImages, lists: dict[str, _Captioned]
) -> dict[str, list[dict[str, Any]]]:
    """Adds pictures and names, and reads the images once for all lists."""
    positions = [position for one in lists.values() for position, _ in one]
    pictures = iter(images.read(np.array(positions), _PICTURE)[0])
    return {
        title: [
            {
                "image": next(pictures),
                "name": str(images.bank.names[position]),
                "caption": caption,
            }
            for position, caption in one
        ]
        for title, one in lists.items()
    }


def _confusion(bank: Bank, votes: analysis.Votes) -> dict[str, Any] | None:
    """Returns counts, and fractions of the true class, of some classes."""
    if votes.predicted is None:
        return None
    matrix = analysis.confusion_matrix(bank, votes)
    fractions = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    shown = analysis.most_confused(matrix, _CLASSES_SHOWN)
    part = np.ix_(shown, shown)
    return {
        "names": [bank.class_names[i] for i in shown],
        "counts": matrix[part].tolist(),
        "fractions": fractions[part].tolist(),
    }


def _duplicates(images: RunImages, sampled: np.ndarray) -> dict[str, Any]:
    bank = images.bank
    note = "The closest come first."
    if len(bank.rows) > _DUPLICATES_UP_TO:
        bank = bank.take(sampled)
        note += (
            f" Only the {len(sampled):,} sampled images were compared; "
            "instdisc-duplicates compares all."
        )
    found = find_duplicates(dataclasses.replace(images, bank=bank))
    groups = [
        sorted(group, key=lambda m: -m.score)[:8]
        for group in found.groups[:_GROUPS_SHOWN]
    ]
    return {
        "summary": duplicate_lines.summary(found),
        "note": note,
        "groups": duplicate_page.with_pictures(groups, _PICTURE),
    }
