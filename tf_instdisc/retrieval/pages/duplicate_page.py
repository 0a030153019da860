"""A page of the groups of near-duplicates."""

from typing import Any

import numpy as np

from tf_instdisc.retrieval.duplicate_lines import summary
from tf_instdisc.retrieval.duplicates import Duplicates, Member
from tf_instdisc.retrieval.pages import pages
from tf_instdisc.retrieval.pages.grid import PICTURE

_GROUPS_SHOWN = 200
_MEMBERS_SHOWN = 24


def duplicates_page(duplicates: Duplicates, title: str) -> str:
    """Returns a page of the groups; it states how many it leaves out."""
    shown = [
        group[:_MEMBERS_SHOWN] for group in duplicates.groups[:_GROUPS_SHOWN]
    ]
    return pages.render(
        "duplicates.html",
        title=title,
        summary=summary(duplicates),
        groups=[
            {"size": len(whole), "members": members}
            for whole, members in zip(
                duplicates.groups, with_pictures(shown, PICTURE), strict=False
            )
        ],
        left_out=max(0, len(duplicates.groups) - _GROUPS_SHOWN),
    )


def with_pictures(
    groups: list[list[Member]], size: int
) -> list[list[dict[str, Any]]]:
    """Returns what a page shows of the members of groups."""
    pictures = _read_pictures([m for group in groups for m in group], size)
    return [
        [
            {
                "image": pictures[id(member)],
                "name": member.name,
                "caption": f"{member.score:.3f} {member.collection.title}",
            }
            for member in group
        ]
        for group in groups
    ]


def _read_pictures(members: list[Member], size: int) -> dict[int, np.ndarray]:
    """Returns pictures by `id(member)`, reading each collection once."""
    pictures: dict[int, np.ndarray] = {}
    collections = {id(m.collection): m.collection for m in members}
    for collection in collections.values():
        some = [m for m in members if m.collection is collection]
        positions = np.array([member.position for member in some])
        images, _ = collection.read(positions, size)
        pictures.update(zip(map(id, some), images, strict=True))
    return pictures
