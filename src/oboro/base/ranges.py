"""Which values an argument may have, as annotations of constructors: ``steps: Steps``, ``dropout: Share``.

A configuration is held against them before anything is built (``oboro.base.configuration``). Upper ends are far above
what has been trained: they keep a file of somebody else from asking for all memory or for years.
"""

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge, Gt, Interval, Len, Predicate


class Infinite:
    """In an annotation of a number: infinity is one, too. NaN never is."""


INFINITE = Infinite()


def named(text: str) -> bool:
    """text, and not empty"""
    return bool(text.strip())


Name = Annotated[str, Predicate(named)]  # of a file, a folder or an average: empty is a variable that was not set
Seed = Annotated[int, Interval(ge=0, le=2**32 - 1)]
Count = Annotated[int, Ge(1)]
CountOrNone = Annotated[int, Ge(0)]  # 0 stands for none, or for never
Steps = Annotated[int, Interval(ge=1, le=100_000)]  # of a sampler, or entries of a table
Width = Annotated[int, Interval(ge=1, le=65_536)]  # channels
WidthOrNone = Annotated[int, Interval(ge=0, le=65_536)]  # 0 stands for none
Depth = Annotated[int, Interval(ge=1, le=1_024)]  # layers, heads
Classes = Annotated[int, Interval(ge=0, le=1_000_000)]  # 0: no labels
Axes = Annotated[int, Interval(ge=1, le=3)]
Level = Annotated[int, Interval(ge=0, le=15)]
Multiples = Annotated[Sequence[Annotated[int, Interval(ge=1, le=64)]], Len(1, 16)]  # of the width, one for each level
Widths = Annotated[Sequence[Width], Len(1, 16)]
Levels = Annotated[Sequence[Level], Len(0, 16)]

Share = Annotated[float, Interval(ge=0, le=1)]
PositiveShare = Annotated[float, Interval(gt=0, le=1)]
Positive = Annotated[float, Gt(0)]
PositiveOrInfinite = Annotated[float, Gt(0), INFINITE]
NonNegative = Annotated[float, Ge(0)]
NonNegativeOrInfinite = Annotated[float, Ge(0), INFINITE]
AverageWidth = Annotated[float, Interval(gt=0, lt=12**-0.5)]  # std of a power function; the plain mean's is 12^-½
Several = Annotated[int, Ge(2)]
Entries = Annotated[int, Interval(ge=1, le=1_000_000)]  # of a codebook, a vocabulary, a table
Bytes = Annotated[int, Interval(ge=1, le=100_000_000)]
BelowOne = Annotated[float, Interval(ge=0, lt=1)]
Scale = Annotated[float, Ge(1)]  # of guidance that a student learns
Scales = Annotated[Sequence[Scale], Len(2, 2)]  # the lowest and the highest
