"""oboro shards FOLDER data=OPTION data.key=value …: pictures into shards for data=streaming."""

import argparse
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from oboro.base.amounts import amount
from oboro.base.counted import counted
from oboro.base.errors import UserError
from oboro.base.output import new_folder
from oboro.base.paths import with_absolute_paths
from oboro.cli.options import CONF
from oboro.cli.plain import run
from oboro.data.image_data import ImageData
from oboro.data.pack.pack import SAVED, pack


def write(chosen: argparse.Namespace) -> None:
    """Compose the data as ``train.py`` would, and pack them."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [*chosen.overrides, "output_dir=outputs"])
    data = instantiate(with_absolute_paths(dict(config.data)), _convert_="all")
    if not isinstance(data, ImageData):
        raise UserError("series are numbers and no files; shards are for data of pictures.")
    folder = Path(chosen.folder).expanduser()
    index = pack(
        data,
        folder,
        shard_bytes=int(chosen.megabytes * 1e6),
        side=chosen.side,
        format=chosen.format,
        seed=config.data.seed,
    )
    size = amount(sum(shard.bytes for shard in index.shards))
    print(
        f"{chosen.folder}: {counted(index.count, data.noun)} of {index.shapes} in "
        f"{counted(len(index.shards), 'shards')}, {size}"
    )


def positive(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """A number above 0."""

    def number(text: str) -> Any:
        value = kind(text)
        if not 0 < value < inf:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return number


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="oboro shards", description=__doc__)
    parser.add_argument("folder", type=new_folder, help="the folder to write, new or empty")
    parser.add_argument("overrides", nargs="+", metavar="data=...", help="the pictures, as for train.py")
    parser.add_argument(
        "--side", type=positive(int), help="reduce pictures whose shorter side is longer to this; as they are otherwise"
    )
    parser.add_argument("--format", choices=SAVED, default="png", help="of those that are reduced")
    parser.add_argument("--megabytes", type=positive(float), default=256, help="of a shard")
    run(parser, arguments, write)


if __name__ == "__main__":
    main()
