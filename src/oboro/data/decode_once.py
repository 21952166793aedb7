"""A source into a folder of the cache, unless it is there."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.remark import remark
from oboro.data import cache
from oboro.data.cache import Block, Cached, Source
from oboro.data.left_out import LeftOut, summary


def decode_once(
    source: Source, folder: Path, shape: tuple[int, ...] | None, noun: str, max_unreadable: float
) -> Cached:
    """The decoded samples of ``source``, each of ``shape``, from ``folder``, where they are decoded to if they are not
    there whole. ``noun`` is what messages call them. Raises ``UserError`` where a larger share than ``max_unreadable``
    cannot be read."""

    def check(count: int, left_out: Sequence[LeftOut]) -> None:
        total = count + len(left_out)
        if len(left_out) > max_unreadable * total:
            raise UserError(
                f"{len(left_out):,} of {counted(total, noun)} cannot be read: {summary(left_out)}; repair or "
                "remove them, or set data.max_unreadable to a larger share"
            )

    def readable(blocks: Iterator[Block]) -> Iterator[Block]:
        """``blocks``; in the end, what was left out is looked at before the folder takes its place."""
        count, left_out = 0, []
        for block in blocks:
            count += len(block.samples)
            left_out += block.left_out
            yield block
        check(count, left_out)

    cached = cache.open_cached(folder)
    if cached is not None:
        check(cached.shape[0], cached.left_out or ())
        return cached
    if folder.exists():
        remark(f"the cache {folder} is damaged: the {noun} are decoded anew")
    return cache.build(folder, readable(source.blocks()), shape)
