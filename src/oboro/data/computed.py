"""Files and folders that all ranks compute together, once."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from oboro.base import distributed
from oboro.base.checksums import unmark
from oboro.base.errors import UserError
from oboro.base.remark import remark
from oboro.base.temporary import beside, clear_abandoned, held
from oboro.data.cache import writing


def compute_together(
    path: Path, whole: Callable[[], bool], create: Callable[[Path], None], fill: Callable[[Path], None]
) -> None:
    """Make ``path``, a file or a folder, unless it exists and is ``whole``, which rank 0 finds out.

    Rank 0 makes a partial one beside ``path``, at the path that ``create`` is given. All ranks ``fill`` their share of
    it, and it takes its place. Where another run was faster its folder stays, for it holds the same. A failure leaves
    nothing. Raises ``UserError`` where not every rank sees what rank 0 makes, and what the three raise.
    """

    def usable() -> bool:
        existed, good = path.exists(), whole()
        if existed and not good:
            remark(f"{path} is damaged: it is computed anew")
        return good

    def begun() -> Path:
        with writing(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            clear_abandoned(path.parent)
        return beside(path)

    if not distributed.from_first(usable):
        partial = distributed.from_first(begun)
        with held(partial) if distributed.rank() == 0 else nullcontext():
            distributed.from_first(lambda: create(partial))
            with distributed.together():
                check_shared(partial)
                fill(partial)
            distributed.from_first(lambda: put(partial, path))
    with distributed.together():
        check_shared(path)


def check_shared(path: Path) -> None:
    """Raises ``UserError`` where this process does not see what the first one wrote."""
    if not path.exists():
        raise UserError(f"not every process sees {path}; set data.cache_dir=<a folder that all nodes share>.")


def put(partial: Path, path: Path) -> None:
    """Rename, which replaces a file; a folder that is there already stays."""
    try:
        os.replace(partial, path)
    except OSError:
        if not path.is_dir():
            raise
    unmark(path)
