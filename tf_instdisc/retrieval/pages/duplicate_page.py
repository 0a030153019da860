"""Formats groups of near-duplicates as TSV and as a page."""

from collections import defaultdict

import numpy as np

from tf_instdisc.retrieval.duplicates import Collection, Duplicates, Member
from tf_instdisc.retrieval.pages import pages
from tf_instdisc.text import tsv

_GROUPS_SHOWN = 200
_MEMBERS_SHOWN = 24


def summary(duplicates: Duplicates) -> str:
    """Summarizes what was found, and how, in a few sentences."""
    members = {
        (id(member.collection), member.position)
        for group in duplicates.groups
        for member in group
    }
    text = (
        f"{len(members)} images in {len(duplicates.groups)} groups, "
        f"{len(duplicates.pairs)} pairs"
    )
    if duplicates.threshold is not None:
        text += f" with a cosine of at least {duplicates.threshold}."
    elif duplicates.least_similarity is None:
        text += (
            ", by their embeddings alone: each pair is closer than its "
            "neighbors suggest, and about 5% of the pairs occur by chance."
        )
    else:
        text += (
            ": each pair is closer than its neighbors suggest, and its "
            "pictures have a correlation of at least "
            f"{duplicates.least_similarity:.2f}."
        )
    if not duplicates.is_complete:
        text += (
            " The search stopped at this number of pairs, but there are "
            "more. Raise --threshold or --max_pairs."
        )
    return text


def duplicates_tsv(duplicates: Duplicates) -> str:
    """Returns one line for each image of a group, best group first."""
    header = ("group", "place", "instance_id", "name", "score", "cosine")
    return tsv(
        header,
        (
            (
                number,
                member.collection.title,
                member.instance_id,
                member.name,
                f"{member.score:.6f}",
                f"{member.cosine:.6f}",
            )
            for number, group in enumerate(duplicates.groups, start=1)
            for member in group
        ),
    )


def duplicates_page(duplicates: Duplicates, title: str, size: int) -> str:
    """Returns a page of the groups; it states how many it leaves out."""
    shown = [group[:_MEMBERS_SHOWN] for group in duplicates.groups]
    shown = shown[:_GROUPS_SHOWN]
    pictures = read_pictures([m for group in shown for m in group], size)
    groups = [
        {
            "size": len(whole),
            "members": [
                {
                    "image": pictures[id(member)],
                    "name": member.name,
                    "score": member.score,
                    "place": member.collection.title,
                }
                for member in group
            ],
        }
        for group, whole in zip(shown, duplicates.groups, strict=False)
    ]
    return pages.render(
        "duplicates.html",
        title=title,
        summary=summary(duplicates),
        groups=groups,
        left_out=max(0, len(duplicates.groups) - _GROUPS_SHOWN),
    )


def read_pictures(members: list[Member], size: int) -> dict[int, np.ndarray]:
    """Returns pictures by `id(member)`, reading each collection once."""
    by_collection: dict[int, list[Member]] = defaultdict(list)
    collections: dict[int, Collection] = {}
    for member in members:
        by_collection[id(member.collection)].append(member)
        collections[id(member.collection)] = member.collection
    pictures = {}
    for key, some in by_collection.items():
        positions = np.array([member.position for member in some])
        images, _ = collections[key].images.read(positions, size)
        pictures.update(
            {id(m): image for m, image in zip(some, images, strict=True)}
        )
    return pictures
