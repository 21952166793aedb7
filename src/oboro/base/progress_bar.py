"""A bar on stderr that is gone when its work is done."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress


@contextmanager
def progress_bar(what: str, total: int | None, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """The block calls what it gets with the number, of ``total``, that is done."""
    with Progress(console=Console(stderr=True), transient=True, disable=not shown) as bar:
        job = bar.add_task(what, total=total)
        yield lambda n: bar.update(job, completed=n)
