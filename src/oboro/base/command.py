"""How a program was started, and from where."""

import os
import sys
from pathlib import Path

COMMANDS = Path(__file__).resolve().parents[1] / "cli" / "commands"  # a file for each `oboro <command>`


def as_typed(script: str) -> str:
    """``oboro train`` for the file of that command, ``python <script>`` for any other."""
    path = Path(script)
    return f"oboro {path.stem}" if path.resolve().parent == COMMANDS else f"python {script}"


def import_from_here() -> None:
    """Packages in the current folder can be imported; last, so that no file there stands for a library."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
