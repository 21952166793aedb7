"""Files and folders that all ranks compute together, once."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from oboro.base import distributed
from oboro.base.errors import UserError
from oboro.base.remark import remark


def compute_together(
    path: Path, whole: Callable[[], bool], create: Callable[[], Path], fill: Callable[[Path], None]
) -> None:
    """Make ``path``, a file or a folder, unless it exists and is ``whole``, which rank 0 finds out.

    Rank 0 makes a partial one with ``create``, beside ``path``. All ranks ``fill`` their share of it, and it takes its
    place. Where another run was faster its folder stays, for it holds the same. A failure leaves nothing. Raises
    ``UserError`` where not every rank sees what rank 0 makes, and what the three raise.
    """

    def usable() -> bool:
        existed, good = path.exists(), whole()
        if existed and not good:
            remark(f"{path} is damaged: it is computed anew")
        return good

    if not distributed.from_first(usable):
        partial = distributed.from_first(create)
        try:
            with distributed.together():
                check_shared(partial)
                fill(partial)
            distributed.from_first(lambda: put(partial, path))
        finally:
            remove(partial)
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


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
