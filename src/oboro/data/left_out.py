"""What a source has and does not give, by reason."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from oboro.base.secret import visible

# Reasons.
HIDDEN, SUFFIX, LINK, LOOP = "hidden or system", "other suffix", "broken link", "folder that was read already"
CLOSED, SPECIAL, EMPTY, BESIDE = "no access", "no regular file", "folder without any", "beside class folders"
UNREADABLE, UNNAMED, PART = "unreadable", "not named in the metadata", "another part of the data"
LONGEST = 400
NAMED = 3  # of each reason; the rest is counted


class LeftOut(NamedTuple):
    """A file or folder that is not among the data, why, and perhaps in detail."""

    name: str
    reason: str
    detail: str = ""


def printable(text: str) -> str:
    """``text`` on one line of some length, with what no terminal can show as escapes."""
    if len(text) > LONGEST:
        text = text[: LONGEST // 2] + "…" + text[-LONGEST // 2 :]
    return visible(text)


def summary(left_out: Sequence[LeftOut]) -> str:
    """``3 other suffix (.txt 2, .mp4 1), 1 broken link (a.png)``."""
    reasons = Counter(item.reason for item in left_out)
    return ", ".join(f"{n:,} {reason} ({_names(left_out, reason)})" for reason, n in reasons.most_common())


def _names(left_out: Sequence[LeftOut], reason: str) -> str:
    items = [item for item in left_out if item.reason == reason]
    if reason == SUFFIX:
        return ", ".join(f"{suffix} {n:,}" for suffix, n in Counter(item.detail for item in items).most_common(8))
    shown = [item.name + (f": {item.detail}" if item.detail else "") for item in items[:NAMED]]
    return printable(", ".join(shown)) + (", …" if len(items) > NAMED else "")


def table(left_out: Sequence[LeftOut]) -> str:
    """One line each: name, reason and detail between tabs."""
    return "".join("\t".join(map(printable, item)) + "\n" for item in left_out)
