"""Formats groups of near-duplicates as text."""

from tf_instdisc.retrieval.duplicates import Duplicates
from tf_instdisc.text import tsv


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
    if not duplicates.pairs.is_complete:
        verb = "set" if duplicates.threshold is None else "raise"
        text += (
            " The search stopped at its limit, so pairs may be missing. Raise "
            f"`--max_pairs` of instdisc-duplicates, or {verb} its "
            "`--threshold`."
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
