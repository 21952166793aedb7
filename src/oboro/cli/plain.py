"""Commands without Hydra: their own arguments, and ``trust=[...]`` among them."""

import argparse
import sys
from collections.abc import Callable, Sequence

from oboro.base.command import import_from_here
from oboro.cli.ending import ending
from oboro.restore.trust import trusted_words, trusting


def run(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None, action: Callable[[argparse.Namespace], None]
) -> None:
    """Call ``action`` with what ``arguments`` say, those of the command line if None; a mistake of the user ends in one
    line on stderr and exit status 1."""
    with ending():
        rest, packages = trusted_words(sys.argv[1:] if arguments is None else arguments)
        chosen = parser.parse_args(rest)
        if packages:
            import_from_here()
        with trusting(packages):
            action(chosen)
