"""What is said of a source at the start of a run."""

import logging
from collections.abc import Callable, Sequence

from oboro.base.counted import counted
from oboro.base.remark import notice, remark
from oboro.data import cache
from oboro.data.cache import Cached, Source
from oboro.data.left_out import HIDDEN, UNREADABLE, LeftOut, printable, summary, table

log = logging.getLogger(__name__)
LEFT_OUT = "left_out.txt"  # in a folder of the cache


def report(source: Source, cached: Cached, noun: str, ignored: bool, natural_size: Callable[[], str]) -> None:
    """A line each: notes of the source, classes that are ``ignored``, samples that were enlarged or cut, and what was
    left out and why. The list of the last is written beside what is ``cached``. ``noun`` is what samples are called,
    and ``natural_size()`` the way not to enlarge any."""
    for note in source.notes:
        notice(note)
    if source.classes > 1 and ignored:
        notice(f"{counted(source.classes, 'classes')}{listed(source.names)} are not read: data.num_classes=0")
    of = f"of {counted(cached.shape[0], noun)}"
    if cached.enlarged:
        size = "×".join(map(str, cached.shape[2:]))
        are = "is" if cached.enlarged == 1 else "are"
        notice(f"{cached.enlarged:,} {of} {are} smaller than {size} and enlarged; {natural_size()}")
    if cached.several:
        have = "has" if cached.several == 1 else "have"
        notice(f"{cached.several:,} {of} {have} several frames or pages, of which the first is taken")
    left_out = [*source.left_out, *(cached.left_out or ())]
    if cached.left_out is None and (missing := (source.count or 0) - cached.shape[0]) > 0:
        left_out.append(LeftOut(f"{missing:,} that an earlier version could not read", UNREADABLE))
    file = cached.path / LEFT_OUT
    if left_out or file.exists():
        try:
            cache.write_whole(file, table(left_out))
        except OSError:  # the cache of somebody else
            log.info("cannot write %s", file)
    if left_out:
        line = f"left out of the data: {summary(left_out)}; {file} lists all"
        if all(item.reason == HIDDEN for item in left_out):
            log.info(line)
        else:
            remark(line)


def listed(names: Sequence[str]) -> str:
    """`` (cat, dog)`` for a message; the middle of many is left out."""
    if not names:
        return ""
    shown = names if len(names) <= 12 else [*names[:5], "…", names[-1]]
    return f" ({printable(', '.join(shown))})"
