"""Some of many rows."""


def spread(n: int | None, count: int) -> list[int]:
    """``n`` of the rows 0 … count - 1 at equal distances, all of them for None: data may be sorted by class."""
    n = count if n is None else min(n, count)
    return [i * count // n for i in range(n)]
