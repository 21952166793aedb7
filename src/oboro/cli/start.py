"""The console command: which commands there are, and the start of one.

Imports nothing slow, and before ``start`` has mended the path no library at all.
"""

import os
import runpy
import sys
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module

from oboro import __version__
from oboro.base.errors import UserError


@dataclass(frozen=True)
class Command:
    """``module`` has a function ``main``, which gets the arguments after ``first``; or, of a command of Hydra's, a
    function of the command's name, which gets the configuration (``oboro.cli.run``)."""

    module: str
    help: str
    hydra: bool = False
    first: tuple[str, ...] = ()


COMMANDS = {
    "train": Command("oboro.cli.train", "train what conf/train.yaml composes; writes checkpoints and metrics", True),
    "sample": Command("oboro.cli.sample", "draw from a checkpoint", True),
    "edit": Command("oboro.cli.edit", "change pictures by a checkpoint, without training", True),
    "evaluate": Command("oboro.cli.evaluate", "measure samples of a checkpoint, or pictures", True),
    "detect": Command("oboro.cli.detect", "say which pictures are anomalous, and how well that is told", True),
    "pack": Command("oboro.cli.pack", "a checkpoint and the parts that lie beside it become one file"),
    "shards": Command("oboro.cli.shards", "pictures become shards, which data=streaming reads"),
    "adapter": Command("oboro.cli.adapter", "write a LoRA as a file, or merge one into a checkpoint"),
    "import": Command("oboro.interop.__main__", "a diffusers pipeline becomes a checkpoint", first=("import",)),
    "import-ldm": Command(
        "oboro.interop.__main__", "a file of LDM or Stable Diffusion becomes a checkpoint", first=("import-ldm",)
    ),
    "export": Command("oboro.interop.__main__", "a checkpoint becomes a diffusers pipeline", first=("export",)),
    "onnx": Command("oboro.interop.__main__", "a checkpoint becomes ONNX files", first=("onnx",)),
}


def main() -> None:
    """``oboro <command> <arguments>``"""
    with import_module("oboro.cli.ending").ending():
        command(*(sys.argv[1:] or ["--help"]))


def command(name: str, *arguments: str) -> None:
    """Print what is to be printed, or run the command."""
    if name in ("--help", "-h"):
        print(overview())
    elif name == "--version":
        print(f"oboro {__version__}")
    elif name not in COMMANDS:
        close = get_close_matches(name, COMMANDS, 1)
        meant = f" Did you mean {close[0]}?" if close else ""
        raise UserError(f"there is no command {name}; `oboro --help` lists them.{meant}")
    elif COMMANDS[name].hydra:
        sys.argv[1:] = arguments
        runpy.run_module(f"oboro.cli.commands.{name}", run_name="__main__", alter_sys=True)
    else:
        import_module(COMMANDS[name].module).main([*COMMANDS[name].first, *arguments])


def overview() -> str:
    """What ``oboro --help`` prints."""
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    usage = "usage: oboro <command> [arguments]; `oboro <command> --help` says which"
    return "\n".join([usage, "", *rows, "", "trust=[package] lets a checkpoint build classes of that package."])


def start(name: str) -> None:
    """The main module of a command of Hydra's. ``python -m`` has put the current folder before the libraries, where a
    file could stand for one of them; it goes, and ``oboro.cli.run`` may put it last."""
    if sys.path[0] in ("", os.getcwd()) and not sys.flags.safe_path:
        del sys.path[0]
    import_module("oboro.cli.run").run(name)
