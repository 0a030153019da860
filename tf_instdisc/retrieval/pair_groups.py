"""Groups of rows in which all rows are pairwise connected."""

import numpy as np


def groups(
    first: np.ndarray,
    second: np.ndarray,
    scores: np.ndarray,
    is_of_second: np.ndarray | None = None,
) -> np.ndarray:
    """Joins pairs into groups in which every two rows are a pair.

    The best pairs are joined first (complete linkage), so a mere chain of
    pairs does not form a group. A pair that cannot be joined forms a separate
    group. Each pair belongs to one group, and a row may belong to several.

    Args:
        first: int `[num_pairs]`, a row of each pair; pairs are unique.
        second: int `[num_pairs]`, the other row.
        scores: float `[num_pairs]`.
        is_of_second: bool `[num_rows]`. If it is given, only rows for which it
            differs were compared, and can be a pair.

    Returns:
        The group of each pair, int64 `[num_pairs]`. Group 0 contains the pair
        with the highest score, and so on.
    """
    order = np.argsort(-scores, kind="stable")
    ends = np.stack([first, second], 1)[order].tolist()
    sides = None if is_of_second is None else is_of_second.tolist()
    partners: dict[int, set[int]] = {}
    for row, other in ends:
        partners.setdefault(row, set()).add(other)
        partners.setdefault(other, set()).add(row)
    group_of = {row: [row] for row in partners}
    # Groups that lack a pair will always lack it, however they grow.
    apart: set[tuple[int, int]] = set()
    for row, other in ends:
        kept, gone = group_of[row], group_of[other]
        if len(kept) < len(gone):
            kept, gone = gone, kept
        if kept is gone or (id(kept), id(gone)) in apart:
            continue
        if all(
            b in partners[a]
            for a in gone
            for b in kept
            if sides is None or sides[a] != sides[b]
        ):
            kept += gone
            group_of.update(dict.fromkeys(gone, kept))
        else:
            apart |= {(id(kept), id(gone)), (id(gone), id(kept))}

    numbers: dict[tuple[int, int], int] = {}
    result = np.empty([len(ends)], np.int64)
    for place, (row, other) in zip(order.tolist(), ends, strict=True):
        group = group_of[row]
        key = (id(group), -1) if group is group_of[other] else (row, other)
        result[place] = numbers.setdefault(key, len(numbers))
    return result
