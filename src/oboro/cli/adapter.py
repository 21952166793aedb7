"""oboro adapter export | merge: adapters as files, and checkpoints with adapters in their weights."""

import argparse
from pathlib import Path

from oboro.adapter import relative_update, write_adapter
from oboro.base.errors import UserError
from oboro.base.output import output_file
from oboro.cli.plain import run
from oboro.restore.archive import write_checkpoint
from oboro.restore.checkpoint import check_kind, load_checkpoint
from oboro.restore.merge import merged, with_adapter
from oboro.restore.rebuild import averaged, build_task


def export(checkpoint: str, file: str, profile: str | None) -> None:
    """Write the averaged adapter of a checkpoint of a run with adapter=lora."""
    content = load_checkpoint(checkpoint)
    check_kind(content, checkpoint, "diffusion")
    task = build_task(content)
    if not task.needs_start:
        raise UserError(f"{checkpoint} has no adapter to export; give one of a run with adapter=lora.")
    network = averaged(task, checkpoint, profile).network
    write_adapter(written(file), network, task.adapter)
    size, update = written(file).stat().st_size / 1e6, relative_update(network)
    print(f"{file}: {size:.2f} MB, changes its layers by {100 * update:.2g} % of their weights")


def merge(checkpoint: str, file: str, adapter: str | None, scale: float) -> None:
    """Write a checkpoint without adapters: its own, or that of a file, are added to its weights."""
    content = load_checkpoint(checkpoint)
    result = merged(content, scale) if adapter is None else with_adapter(content, adapter, scale)
    if result is content:
        raise UserError(f"{checkpoint} has no adapter to merge; name the file of one with --adapter.")
    write_checkpoint(result, written(file))
    print(f"{file}: {written(file).stat().st_size / 1e6:.2f} MB")


def written(file: str) -> Path:
    """Where ``file`` goes; its folder is made."""
    path = Path(file).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="oboro adapter", description=__doc__)
    commands = parser.add_subparsers(required=True)
    exporting = commands.add_parser("export", help="the adapter of a checkpoint as a small file")
    exporting.add_argument("--profile", help="which average; the first unless named")
    merging = commands.add_parser("merge", help="a checkpoint without adapters that draws the same")
    merging.add_argument("--adapter", help="a file to merge instead of the checkpoint's own adapter")
    merging.add_argument("--scale", type=float, default=1.0, help="1: as trained, 0: not at all")
    for command, written in ((exporting, "the .safetensors file"), (merging, "the .ckpt file")):
        command.add_argument("checkpoint")
        command.add_argument("file", type=output_file, help=f"{written} to write")
    exporting.set_defaults(run=lambda a: export(a.checkpoint, a.file, a.profile))
    merging.set_defaults(run=lambda a: merge(a.checkpoint, a.file, a.adapter, a.scale))
    run(parser, arguments, lambda chosen: chosen.run(chosen))


if __name__ == "__main__":
    main()
