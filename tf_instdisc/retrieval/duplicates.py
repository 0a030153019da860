"""Finds near-duplicate images in a run's data, a folder or two folders.

A pair must pass two tests. Its embeddings must be closer than different images
are expected to be in that region of the embedding space (`local_scale`), and
small gray pictures of the two must agree (`pixel_similarity`). If there are no
pictures, the embeddings alone must be so close that only 5% of all such pairs
are expected to occur by chance.
"""

import dataclasses
import sys
from collections.abc import Sequence

import keras
import numpy as np

from tf_instdisc.errors import UsageError
from tf_instdisc.retrieval import pair_groups
from tf_instdisc.retrieval.duplicate_pairs import judged
from tf_instdisc.retrieval.near_pairs import SLACK, Pairs, pairs_within
from tf_instdisc.runs.directory import RunDirectory
from tf_instdisc.runs.encoding import encode
from tf_instdisc.runs.images import RunImages
from tf_instdisc.runs.load import load_encoder

_NUM_COPIED = 256


@dataclasses.dataclass(frozen=True)
class Member:
    """An image of a group.

    Attributes:
        collection: The collection of the image.
        position: Its row in the collection.
        score: The score of its best pair in the group.
        cosine: The cosine of the same pair.
    """

    collection: RunImages
    position: int
    score: float
    cosine: float

    @property
    def name(self) -> str:
        return str(self.collection.bank.names[self.position])

    @property
    def instance_id(self) -> int:
        return int(self.collection.bank.instance_ids[self.position])


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """The near-duplicates that were found.

    Attributes:
        pairs: All pairs.
        groups: Groups in which all images that were compared are pairwise
            near-duplicates, ordered by their best pair. An image may belong
            to several groups.
        threshold: The requested cosine, or None.
        least_similarity: The minimum similarity of a pair's pictures; None if
            no pictures were compared.
        radii: Distance of each row within which pairs were judged, float32
            `[num_rows]`, those of a second collection last; None with a
            threshold.
    """

    pairs: Pairs
    groups: list[list[Member]]
    threshold: float | None
    least_similarity: float | None
    radii: np.ndarray | None


def training_images(images: RunImages, run: RunDirectory) -> RunImages:
    """Returns a run's training images with the name of the run.

    The rows in the memory bank of the training are pushed apart even for equal
    images. If the bank still has those rows, as earlier versions wrote it, the
    images are re-encoded if they exist.
    """
    images = dataclasses.replace(images, title=run.path.resolve().name)
    if images.bank.encoded_by is not None:
        return images
    rows, found = encode(images, load_encoder(run.path))
    if not found.any():
        print(
            f"None of the {len(rows)} images of {images.title} was found where "
            "the run read it. The rows from its training are compared instead.",
            file=sys.stderr,
        )
        return images
    bank = dataclasses.replace(images.bank, rows=rows).take(found)
    return dataclasses.replace(images, bank=bank)


def find_duplicates(
    collection: RunImages,
    threshold: float | None = None,
    other: RunImages | None = None,
    max_pairs: int = 1_000_000,
) -> Duplicates:
    """Finds near-duplicates.

    Args:
        threshold: Minimum cosine of near-duplicates, in (0, 1]. By default,
            pairs are judged by the distances to their other neighbors, and by
            their pictures as far as these can be read.
        other: Images to compare with. By default, the images are compared
            with each other.
        max_pairs: Number of pairs at which the search stops.

    Raises:
        UsageError: If `threshold` is out of range.
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise UsageError(
            f"`threshold` must be in (0, 1]. Received: threshold={threshold}"
        )
    places, rows, split = [collection], collection.bank.rows, None
    if other is not None:
        places, split = [collection, other], len(rows)
        rows = np.concatenate([rows, other.bank.rows])
    least_similarity = radii = None
    if threshold is None:
        pairs, radii, least_similarity = judged(places, rows, split, max_pairs)
    else:
        radius = np.sqrt(2 * (1 - threshold + SLACK))
        pairs = pairs_within(
            rows, np.full([len(rows)], radius), split, max_pairs
        )
    pairs = pairs[np.argsort(-pairs.scores, kind="stable")]
    if len(pairs) > max_pairs:
        pairs = dataclasses.replace(pairs[:max_pairs], is_complete=False)
    groups = _groups(pairs, places)
    return Duplicates(pairs, groups, threshold, least_similarity, radii)


def _groups(pairs: Pairs, places: Sequence[RunImages]) -> list[list[Member]]:
    sizes = [len(place.bank.rows) for place in places]
    starts = np.cumsum([0, *sizes])
    place_of = np.repeat(np.arange(len(places)), sizes)
    group_of_pair = pair_groups.groups(
        pairs.first,
        pairs.second,
        pairs.scores,
        place_of > 0 if len(places) == 2 else None,
    )
    groups: list[dict[int, Member]] = [
        {} for _ in range(group_of_pair.max(initial=-1) + 1)
    ]
    # The first pair of a member has its highest score, which is kept.
    for pair, group in enumerate(group_of_pair.tolist()):
        for position in (int(pairs.first[pair]), int(pairs.second[pair])):
            place = place_of[position]
            groups[group].setdefault(
                position,
                Member(
                    places[place],
                    position - int(starts[place]),
                    float(pairs.scores[pair]),
                    float(pairs.cosines[pair]),
                ),
            )
    return [[group[place] for place in sorted(group)] for group in groups]


def fraction_of_copies_found(
    collection: RunImages, encoder: keras.Model, radii: np.ndarray
) -> float | None:
    """Returns the fraction of altered copies that the encoder finds.

    The copies are cropped by 2.5% at each side. If the run was trained with
    flips, half of them are mirrored instead.

    Args:
        radii: `Duplicates.radii` of a search that begins with the collection.

    Returns:
        A fraction in [0, 1]; None if no image can be read.
    """
    bank = collection.bank
    rng = np.random.default_rng(0)
    count = min(len(bank.rows), _NUM_COPIED)
    chosen = np.sort(rng.choice(len(bank.rows), count, replace=False))
    side = collection.image_size
    is_mirrored = rng.random([count]) < 0.5
    is_mirrored &= collection.config.augmentation.flip
    found: list[np.ndarray] = []
    for slots, batch in collection.batches(
        chosen, side, collection.crop_fraction
    ):
        margin = round(side / 40)
        enlarged = keras.ops.image.resize(batch, [side + 2 * margin] * 2)
        copies = np.array(enlarged)[:, margin:, margin:][:, :side, :side]
        mirrored = is_mirrored[slots]
        copies[mirrored] = batch[mirrored, :, ::-1]
        rows = encoder.predict_on_batch(copies)
        distances = np.linalg.norm(rows - bank.rows[chosen[slots]], axis=1)
        found.append(distances <= radii[chosen[slots]])
    return float(np.concatenate(found).mean()) if found else None
