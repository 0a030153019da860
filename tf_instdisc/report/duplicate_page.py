"""Groups of near-duplicates as TSV and as a page."""

from collections import defaultdict

import numpy as np

from tf_instdisc.duplicates import Collection, Duplicates, Member
from tf_instdisc.report import pages
from tf_instdisc.text import tsv

_GROUPS_SHOWN = 200
_MEMBERS_SHOWN = 24


def summary(duplicates: Duplicates, threshold: float) -> str:
    """What was found, in a sentence or two."""
    images = sum(len(group) for group in duplicates.groups)
    text = (
        f"{images} images in {len(duplicates.groups)} groups, "
        f"{duplicates.num_pairs} pairs with a cosine of at least {threshold}."
    )
    if not duplicates.is_complete:
        text += (
            " The search stopped at this number of pairs, and there are "
            "more: raise --threshold, or --max_pairs."
        )
    return text


def duplicates_tsv(duplicates: Duplicates) -> str:
    """One line for each image of a group."""
    header = ("group", "place", "instance_id", "name", "score")
    return tsv(
        header,
        (
            (
                number,
                member.collection.title,
                member.instance_id,
                member.name,
                f"{member.score:.6f}",
            )
            for number, group in enumerate(duplicates.groups, start=1)
            for member in group
        ),
    )


def duplicates_page(
    duplicates: Duplicates, threshold: float, title: str, size: int
) -> str:
    """The groups with their pictures; long lists are cut, and that is said."""
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
        summary=summary(duplicates, threshold),
        groups=groups,
        left_out=max(0, len(duplicates.groups) - _GROUPS_SHOWN),
    )


def read_pictures(members: list[Member], size: int) -> dict[int, np.ndarray]:
    """Pictures by `id(member)`; every collection is read once."""
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
