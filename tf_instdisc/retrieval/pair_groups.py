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
    group_of: dict[int, int] = {}
    # Number of rows on either side of each group, and of pairs between groups.
    sizes: dict[int, tuple[int, int]] = {}
    members: dict[int, list[int]] = {}
    links: dict[int, dict[int, int]] = {}
    for pair in ends:
        for row in pair:
            side = is_of_second is not None and bool(is_of_second[row])
            group_of[row] = row
            sizes[row] = (int(not side), int(side))
            members[row] = [row]
            links.setdefault(row, {})
        links[pair[0]][pair[1]] = links[pair[1]][pair[0]] = 1

    def is_complete(group: int, other: int) -> bool:
        (a, b), (c, d) = sizes[group], sizes[other]
        return links[group][other] == (
            a * c if is_of_second is None else a * d + b * c
        )

    for row, other_row in ends:
        kept, gone = group_of[row], group_of[other_row]
        if kept == gone or not is_complete(kept, gone):
            continue
        if len(links[kept]) < len(links[gone]):
            kept, gone = gone, kept
        for row in members[gone]:
            group_of[row] = kept
        members[kept] += members.pop(gone)
        (a, b), (c, d) = sizes[kept], sizes.pop(gone)
        sizes[kept] = (a + c, b + d)
        for other, count in links.pop(gone).items():
            del links[other][gone]
            if other != kept:
                links[kept][other] = links[kept].get(other, 0) + count
                links[other][kept] = links[kept][other]

    numbers: dict[tuple[int, int], int] = {}
    result = np.empty([len(ends)], np.int64)
    for place, (row, other_row) in zip(order.tolist(), ends, strict=True):
        joined = group_of[row] == group_of[other_row]
        key = (group_of[row], -1) if joined else (row, other_row)
        result[place] = numbers.setdefault(key, len(numbers))
    return result
