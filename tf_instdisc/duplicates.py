"""Near-duplicate images: in a run's data, in a folder, between two folders."""

import dataclasses
import sys

import keras
import numpy as np

from tf_instdisc import near_pairs
from tf_instdisc.data.folder import folder_source
from tf_instdisc.data.pipeline import evaluation_dataset
from tf_instdisc.embedding import embed
from tf_instdisc.load import load_encoder
from tf_instdisc.run_directory import Bank, RunDirectory
from tf_instdisc.run_images import RunImages

_BATCH = 256


@dataclasses.dataclass(frozen=True)
class Collection:
    """Embedded images of one place.

    Attributes:
        bank: Rows, names and labels; of images that are left out none.
        images: Reads the pictures.
        title: For people.
    """

    bank: Bank
    images: RunImages
    title: str


@dataclasses.dataclass(frozen=True)
class Member:
    """An image of a group.

    Attributes:
        collection: Where it is from.
        position: Its row there.
        score: The largest cosine with another image of the group.
    """

    collection: Collection
    position: int
    score: float

    @property
    def name(self) -> str:
        return str(self.collection.bank.names[self.position])

    @property
    def instance_id(self) -> int:
        return int(self.collection.bank.instance_ids[self.position])


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """Groups of near-duplicates.

    Attributes:
        groups: The largest first; images that hang together by pairs.
        num_pairs: Pairs that were found.
        is_complete: False where the search stopped at its limit.
    """

    groups: list[list[Member]]
    num_pairs: int
    is_complete: bool


def training_images(images: RunImages, run: RunDirectory) -> Collection:
    """A run's training images.

    Rows that training has left are pushed apart even for equal images. Where
    the bank still has those, as earlier versions wrote it, the images are
    encoded if they are there.

    Args:
        images: The run's images.
        run: The run.
    """
    title = run.path.resolve().name
    bank = images.bank
    if bank.encoded_by is not None:
        return Collection(bank, images, title)
    encoder = load_encoder(run.path)
    rows = np.zeros_like(bank.rows)
    found = np.zeros([len(rows)], bool)
    batches = images.batches(
        np.arange(len(rows)), images.image_size, images.crop_fraction
    )
    for positions, batch in batches:
        rows[positions] = encoder.predict_on_batch(batch)
        found[positions] = True
    if not found.any():
        print(
            f"None of the {len(rows)} images of {title} is where the run has "
            "it: the rows of its training are compared.",
            file=sys.stderr,
        )
        return Collection(bank, images, title)
    kept = Bank(
        rows[found],
        bank.instance_ids[found],
        bank.names[found],
        bank.labels[found],
        bank.class_names,
    )
    return Collection(kept, RunImages(kept, images.flags), title)


def folder_images(
    folder: str, flags: dict[str, str], encoder: keras.Model
) -> Collection:
    """The images of a folder; files that cannot be decoded are left out.

    Args:
        folder: Path.
        flags: The run's flags, for the size of the encoder's input.
        encoder: The run's encoder.
    """
    flags = {**flags, "images": folder}
    source = folder_source(folder, "skip")
    crop_fraction = float(flags.get("crop_fraction", 1.0))
    embedded = embed(
        encoder,
        evaluation_dataset(
            source, int(flags["image_size"]), _BATCH, crop_fraction
        ),
    )
    bank = Bank(
        embedded.embeddings,
        embedded.instance_ids,
        np.array([source.instance_name(int(i)) for i in embedded.instance_ids]),
        embedded.labels,
        source.class_names or (),
    )
    return Collection(bank, RunImages(bank, flags), folder)


def find_duplicates(
    collection: Collection,
    threshold: float,
    other: Collection | None = None,
    max_pairs: int = 1_000_000,
) -> Duplicates:
    """Groups images whose embeddings are near each other.

    Args:
        collection: Images.
        threshold: Cosine from which on two images are near-duplicates, in
            (0, 1].
        other: Images to compare with; by default the images are compared
            among themselves.
        max_pairs: Pairs at which the search stops.

    Raises:
        ValueError: If `threshold` is out of range.
    """
    pairs = near_pairs.pairs_above(
        collection.bank.rows,
        threshold,
        None if other is None else other.bank.rows,
        max_pairs,
    )
    offset = 0
    if other is not None:
        # Positions of the others come after those of the first.
        offset = len(collection.bank.rows)
        pairs = dataclasses.replace(pairs, second=pairs.second + offset)

    best: dict[int, float] = {}
    for column in (pairs.first, pairs.second):
        for position, score in zip(
            column.tolist(), pairs.scores.tolist(), strict=True
        ):
            best[position] = max(best.get(position, -1.0), score)

    def member(position: int) -> Member:
        if other is not None and position >= offset:
            return Member(other, position - offset, best[position])
        return Member(collection, position, best[position])

    return Duplicates(
        [
            [member(position) for position in group.tolist()]
            for group in near_pairs.groups(pairs)
        ],
        len(pairs.first),
        pairs.is_complete,
    )
