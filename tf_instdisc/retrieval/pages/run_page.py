"""The report of a run: a page that shows what it has learned."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from tf_instdisc.config import TrainingConfig
from tf_instdisc.retrieval import analysis, duplicate_lines, neighbor_rows
from tf_instdisc.retrieval.bank_statistics import (
    bank_statistics,
    health_warnings,
)
from tf_instdisc.retrieval.duplicates import Collection, find_duplicates
from tf_instdisc.retrieval.pages import (
    charts,
    duplicate_page,
    figures_of_run,
    pages,
)
from tf_instdisc.retrieval.pages.tensorboard import sample_rows
from tf_instdisc.retrieval.pages.thumbnails import data_uri, sheet
from tf_instdisc.retrieval.queries import nearest, row_queries
from tf_instdisc.runs.bank import Bank
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.runs.images import RunImages
from tf_instdisc.runs.load import load_encoder

CURVES = {
    "loss": "loss",
    "log_normalizer": "log Z",
    "knn_top1": "kNN top-1",
    "knn_top5": "kNN top-5",
    "learning_rate": "learning rate",
    "images_per_second": "images per second",
    "input_wait": "fraction of time waiting for input",
    "bank_mean_cosine": "mean cosine of two rows",
    "bank_effective_rank": "effective rank",
    "bank_norm": "mean norm of the rows",
}
_PICTURE = 64  # pixels
_SHEET_PICTURE = 32
_QUERIES = 8
_NEIGHBORS = 8
_SHOWN = 18  # Hardest and most isolated images.
_GROUPS_SHOWN = 12
_CLASSES_SHOWN = 40  # In the confusion matrix.
_DUPLICATES_UP_TO = 60_000  # More rows would take minutes.


@dataclasses.dataclass(frozen=True)
class _Sample:
    """The sampled rows with their votes and pictures."""

    positions: np.ndarray
    votes: analysis.Votes
    pictures: np.ndarray
    found: np.ndarray


def report(
    run: RunDirectory,
    images: RunImages,
    *,
    max_points: int = 3000,
    threshold: float | None = None,
    num_neighbors: int = TrainingConfig.num_neighbors,
    seed: int = 0,
) -> str:
    """Builds the page.

    Args:
        run: A finished run.
        images: Its images; pictures of missing ones are gray.
        max_points: If there are more rows, this number is drawn for the map,
            the classification and the pictures.
        threshold: Minimum cosine of near-duplicates; None lets
            `find_duplicates` decide.
        num_neighbors: Number of neighbors that vote.
        seed: Random seed of the sample.

    Returns:
        HTML that needs no network.
    """
    bank = images.bank
    metrics = run.read_metrics()
    sample = _take_sample(images, max_points, num_neighbors, seed)
    statistics = bank_statistics(bank.rows)
    last = metrics[-1] if metrics else {}

    figures: dict = {
        name: figure
        for name, title in CURVES.items()
        if (figure := charts.curve(metrics, name, title)) is not None
    }
    curve_names = list(figures)
    figures["map"], legend = figures_of_run.map_of(bank, sample.positions, seed)
    if sample.votes.predicted is not None:
        figures["confusion"] = figures_of_run.confusion(
            bank, sample.votes, _CLASSES_SHOWN
        )
    queries = row_queries(
        images,
        sample_rows(len(bank.rows), _QUERIES, seed),
        _PICTURE,
    )
    drawn = charts.embed(figures)
    return pages.render(
        "report.html",
        run_name=run.path.resolve().name,
        facts=_facts(bank, last),
        warnings=health_warnings(
            statistics, last.get("loss"), last.get("weight_growth")
        ),
        charts=drawn,
        curve_names=curve_names,
        health=_health(run, images, sample, statistics),
        rows=neighbor_rows.grid_rows(
            queries, nearest(queries, bank, _NEIGHBORS), images
        ),
        legend=legend,
        sheet=data_uri(sheet(sample.pictures), quality=70),
        hardest=_hardest(bank, sample),
        loneliest=_loneliest(bank, sample),
        duplicates=_duplicates(images, sample, threshold),
        flags=images.config.flags(),
        num_sampled=len(sample.positions),
        num_rows=len(bank.rows),
        num_missing=int((~sample.found).sum()),
        num_neighbors=num_neighbors,
        num_classes=len(bank.class_names),
        num_classes_shown=_CLASSES_SHOWN,
    )


def _take_sample(
    images: RunImages, max_points: int, num_neighbors: int, seed: int
) -> _Sample:
    bank = images.bank
    positions = sample_rows(len(bank.rows), max_points, seed)
    temperature = images.config.method.temperature
    size = min(_SHEET_PICTURE, images.image_size)
    pictures, found = images.read(positions, size)
    return _Sample(
        positions,
        analysis.classify_rows(bank, positions, num_neighbors, temperature),
        pictures,
        found,
    )


def _facts(bank: Bank, last: dict[str, float]) -> dict[str, str]:
    facts = {"images": f"{len(bank.rows):,}", "classes": "none"}
    if bank.class_names:
        facts["classes"] = str(len(bank.class_names))
    for name, title, form in (
        ("epoch", "epochs", "{:.0f}"),
        ("loss", "loss", "{:.3f}"),
        ("knn_top1", "kNN top-1", "{:.1%}"),
        ("knn_top5", "kNN top-5", "{:.1%}"),
    ):
        if name in last:
            facts[title] = form.format(last[name])
    return facts


def _health(
    run: RunDirectory,
    images: RunImages,
    sample: _Sample,
    statistics: dict[str, float],
) -> dict[str, str]:
    dim = images.bank.rows.shape[1]
    health = {
        "mean norm of a row": f"{statistics['norm']:.4f} (should be 1)",
        "mean cosine of two rows": (
            f"{statistics['mean_cosine']:.4f} (1 if all are equal)"
        ),
        "effective rank": (
            f"{statistics['effective_rank']:.1f} of {dim} dimensions"
        ),
    }
    agreement = _agreement(run, images, sample)
    if agreement is not None:
        health["row and its re-encoded image"] = (
            f"mean cosine {agreement.mean():.3f}, least {agreement.min():.3f}"
        )
    return health


def _agreement(
    run: RunDirectory, images: RunImages, sample: _Sample
) -> np.ndarray | None:
    """Returns cosines of sampled rows with their re-encoded images."""
    known = sample.positions[sample.found][:1000]
    if not len(known) or not run.encoder.exists():
        return None
    encoder = load_encoder(run.path)
    batches = images.batches(known, images.image_size, images.crop_fraction)
    cosines = [
        np.sum(
            images.bank.rows[known[slots]] * encoder.predict_on_batch(batch),
            axis=1,
        )
        for slots, batch in batches
    ]
    return np.concatenate(cosines)


def _pick(
    bank: Bank,
    sample: _Sample,
    order: np.ndarray,
    caption: Callable[[int], str],
) -> list[dict[str, Any]]:
    return [
        {
            "image": sample.pictures[i],
            "name": str(bank.names[sample.positions[i]]),
            "caption": caption(i),
        }
        for i in order[:_SHOWN]
    ]


def _hardest(bank: Bank, sample: _Sample) -> list[dict[str, Any]]:
    """Returns the images whose neighbors vote least for their label."""
    votes = sample.votes
    predicted = votes.predicted
    if predicted is None or votes.margin is None:
        return []

    def caption(i: int) -> str:
        label = neighbor_rows.class_name(bank, bank.labels[votes.positions[i]])
        said = bank.class_names[predicted[i]]
        return f"{label}, predicted {said}"

    order = np.argsort(votes.margin, kind="stable")
    order = order[predicted[order] != bank.labels[votes.positions[order]]]
    return _pick(bank, sample, order, caption)


def _loneliest(bank: Bank, sample: _Sample) -> list[dict[str, Any]]:
    """Returns the images whose nearest neighbor is farthest away."""
    nearest_score = sample.votes.nearest
    return _pick(
        bank,
        sample,
        np.argsort(nearest_score, kind="stable"),
        lambda i: f"nearest {nearest_score[i]:.2f}",
    )


def _duplicates(
    images: RunImages, sample: _Sample, threshold: float | None
) -> dict[str, Any]:
    bank = images.bank
    note = "Rows of the bank were compared; the closest come first."
    if len(bank.rows) > _DUPLICATES_UP_TO:
        positions = sample.positions
        bank = Bank(
            bank.rows[positions],
            bank.instance_ids[positions],
            bank.names[positions],
            bank.labels[positions],
            bank.class_names,
        )
        note = (
            f"Only the rows of the {len(positions)} sampled images were "
            "compared; instdisc-duplicates compares all. The closest come "
            "first."
        )
    collection = Collection(bank, RunImages(bank, images.config), "")
    found = find_duplicates(collection, threshold)
    groups = [
        sorted(group, key=lambda m: -m.score)[:8]
        for group in found.groups[:_GROUPS_SHOWN]
    ]
    pictures = duplicate_page.read_pictures(
        [member for group in groups for member in group], _PICTURE
    )
    return {
        "summary": duplicate_lines.summary(found),
        "note": note,
        "groups": [
            [
                {
                    "image": pictures[id(member)],
                    "name": member.name,
                    "caption": f"{member.score:.3f}",
                }
                for member in group
            ]
            for group in groups
        ],
    }
