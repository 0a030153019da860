"""Finds the neighbors of images and files, in a bank or at a server."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tf_instdisc.data.decode import FORMATS
from tf_instdisc.errors import UsageError
from tf_instdisc.retrieval.neighbors import top_k, without_self
from tf_instdisc.retrieval.queries import Neighbors
from tf_instdisc.runs.bank import Bank

Model = Callable[[Sequence[bytes]], Mapping[str, np.ndarray]]
"""Takes files as bytes, like the signatures of an exported model."""


class NotAnImageError(UsageError):
    """The bytes are not an image that the model accepts."""


@dataclasses.dataclass(frozen=True)
class BankSearch:
    """Searches the rows of a bank; all results have one row.

    Attributes:
        embed: Returns `embedding` and `valid`, like the signature
            `image_bytes`.
    """

    bank: Bank
    embed: Model

    def of_image(self, position: int, count: int) -> Neighbors:
        """Returns the neighbors of a row of the bank, without itself."""
        own = np.array([position])
        found = top_k(self.bank.rows[own], self.bank.rows, count + 1)
        return Neighbors(*without_self(*found, own))

    def of_file(self, contents: bytes, count: int) -> Neighbors:
        """Returns the neighbors of an encoded image.

        Raises:
            NotAnImageError: If the bytes are not an image.
        """
        response = self.embed([contents])
        _require_valid(response)
        embedding = np.asarray(response["embedding"])
        return Neighbors(*top_k(embedding, self.bank.rows, count))


@dataclasses.dataclass(frozen=True)
class ServedSearch:
    """Asks a model that has the bank, with methods as in `BankSearch`.

    Images of the model that are not in the folder are left out.

    Attributes:
        names: Paths relative to the folder.
        ask: Returns `names`, `scores` and `valid`, like the signature
            `neighbors_bytes`.
    """

    folder: str
    names: np.ndarray
    ask: Model

    def of_image(self, position: int, count: int) -> Neighbors:
        path = pathlib.Path(self.folder, str(self.names[position]))
        found = self.of_file(path.read_bytes(), count + 1)
        is_other = found.positions[0] != position
        return Neighbors(
            found.scores[:, is_other][:, :count],
            found.positions[:, is_other][:, :count],
        )

    def of_file(self, contents: bytes, count: int) -> Neighbors:
        response = self.ask([contents])
        _require_valid(response)
        names = np.array([_text(n) for n in np.asarray(response["names"])[0]])
        scores = np.asarray(response["scores"])[0]
        places = np.searchsorted(self.names, names)
        places = np.minimum(places, len(self.names) - 1)
        is_here = self.names[places] == names
        return Neighbors(
            scores[None, is_here][:, :count], places[None, is_here][:, :count]
        )


Search = BankSearch | ServedSearch


def _text(name: bytes | str) -> str:
    return name if isinstance(name, str) else os.fsdecode(name)


def _require_valid(response: Mapping[str, np.ndarray]) -> None:
    if not np.asarray(response["valid"])[0]:
        raise NotAnImageError(
            f"This file is not an image that can be read ({FORMATS})."
        )
