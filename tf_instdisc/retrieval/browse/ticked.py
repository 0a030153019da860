"""The list of ticked images, which is saved whenever it changes."""

import os
import pathlib
import threading

from tf_instdisc import atomic
from tf_instdisc.errors import UsageError
from tf_instdisc.paths import local_path
from tf_instdisc.runs.bank import Bank
from tf_instdisc.text import UNTRUSTED_LIMIT, shown, tsv

_HEADER = ("instance_id", "name")


class TickedList:
    """Positions that the user has ticked, kept in a TSV file.

    Args:
        path: The file or its URL; it is written when the first image is
            ticked. The images of an existing file are ticked at the start,
            except those that were removed from the bank since.
        next_id: One more than the highest id that an image of the bank ever
            had; by default, that an image has now.

    Attributes:
        num_removed: Number of images of the file that were removed.

    Raises:
        UsageError: If the file is not such a list, or one of other images.
    """

    def __init__(
        self, path: str | os.PathLike, bank: Bank, next_id: int | None = None
    ):
        self.path = os.fspath(path)
        self._bank = bank
        self._next_id = next_id or 1 + int(bank.instance_ids.max(initial=-1))
        self._lock = threading.Lock()
        self.num_removed = 0
        self._positions = self._read()

    @property
    def positions(self) -> list[int]:
        """The ticked rows of the bank, ascending."""
        return sorted(self._positions)

    def tick(self, position: int, is_ticked: bool) -> None:
        """Ticks an image or removes its tick, and writes the file.

        Raises:
            OSError: If the file cannot be written.
        """
        with self._lock:
            positions = self._positions - {position}
            if is_ticked:
                positions.add(position)
            chosen = sorted(positions)
            lines = zip(
                self._bank.instance_ids[chosen],
                self._bank.names[chosen],
                strict=True,
            )
            atomic.write_text(self.path, tsv(_HEADER, lines))
            self._positions = positions

    def _read(self) -> set[int]:
        file = pathlib.Path(local_path(self.path, "ticked", "output"))
        if not file.exists():
            return set()
        header, *lines = file.read_text("utf-8", "replace").split("\n")
        if header.split("\t") != list(_HEADER):
            raise UsageError(
                "`ticked` must be a new file, or one that this command wrote. "
                f"Received: ticked={self.path}, which holds something else."
            )
        ids = self._bank.instance_ids.tolist()
        place_of = {str(number): place for place, number in enumerate(ids)}
        positions, removed = set(), []
        for line in filter(None, lines):
            number, _, name = line.partition("\t")
            place = place_of.get(number)
            if place is None and number.isdecimal():
                removed.append(line)
                continue
            if place is None or shown(str(self._bank.names[place])) != name:
                raise self._refused(line)
            positions.add(place)
        # Ids are not given again, so a lower id was of an image here. A higher
        # one is of another run.
        are_others = all(
            int(line.partition("\t")[0]) >= self._next_id for line in removed
        )
        if removed and not positions and are_others:
            raise self._refused(removed[0])
        self.num_removed = len(removed)
        return positions

    def _refused(self, line: str) -> UsageError:
        return UsageError(
            "`ticked` must be a list of these images. Received: "
            f"ticked={self.path}, which has the line "
            f"{shown(line, UNTRUSTED_LIMIT)}. Give another file."
        )
