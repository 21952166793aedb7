"""oboro pack CHECKPOINT FILE: a checkpoint, with frozen parts and shards beside it, as one self-contained file."""

import argparse
from pathlib import Path

from oboro.base.output import output_file
from oboro.cli.plain import run
from oboro.restore.checkpoint import load_checkpoint
from oboro.restore.frozen import write_whole


def pack(checkpoint: str, file: str) -> None:
    """Write ``checkpoint`` with all that it needs, also to go on with training, to ``file``."""
    path = Path(file).expanduser()
    write_whole(load_checkpoint(checkpoint), path)
    print(f"{file}: {path.stat().st_size / 1e6:.2f} MB")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="oboro pack", description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("file", type=output_file, help="the .ckpt file to write")
    run(parser, arguments, lambda chosen: pack(chosen.checkpoint, chosen.file))


if __name__ == "__main__":
    main()
