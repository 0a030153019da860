"""What values of several flags must be."""

import itertools
from collections.abc import Sequence


def is_rising(values: Sequence[str]) -> bool:
    """Whether texts are whole numbers above 0, each above the one before."""
    if not all(value.strip().isdigit() for value in values):
        return False
    numbers = [0, *map(int, values)]
    return all(a < b for a, b in itertools.pairwise(numbers))
