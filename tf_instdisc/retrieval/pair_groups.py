"""Groups of rows in which every two are a pair."""

import numpy as np

from tf_instdisc.retrieval.near_pairs import NearPairs


def groups(
    pairs: NearPairs, is_of_second: np.ndarray | None = None
) -> np.ndarray:
    """Joins pairs into groups in which every two rows are a pair.

    The best pairs are joined first (complete linkage), so that no chain of
    pairs makes a group. A pair that cannot be joined is a group of its own:
    each pair lies in one group, and a row may lie in several.

    Args:
        pairs: Pairs of rows among themselves, each once.
        is_of_second: bool `[num_rows]`; where it is given, only rows of which
            it differs were compared, and can be a pair.

    Returns:
        The group of each pair, int64 `[num_pairs]`: 0 is that of the pair with
        the highest score, and so on.
    """
    order = np.argsort(-pairs.scores, kind="stable")
    ends = np.stack([pairs.first, pairs.second], 1)[order].tolist()
    group_of: dict[int, int] = {}
    # Rows of either side, for each group; how many pairs join two groups.
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

    for first, second in ends:
        kept, gone = group_of[first], group_of[second]
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
    for place, (first, second) in zip(order.tolist(), ends, strict=True):
        joined = group_of[first] == group_of[second]
        key = (group_of[first], -1) if joined else (first, second)
        result[place] = numbers.setdefault(key, len(numbers))
    return result
