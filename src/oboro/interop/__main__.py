"""oboro import|import-ldm|export|onnx …: files of other programs into checkpoints, and back."""

import argparse
from collections.abc import Callable

from oboro.base.output import new_folder, output_file
from oboro.cli.plain import run
from oboro.interop import controlnet, ldm, onnx, pipeline
from oboro.task import Diffusion


def imported(folder: str, base: str | None) -> Diffusion:
    return pipeline.load_pipeline(folder) if base is None else controlnet.load_controlnet(folder, base)


def exporting(checkpoint: str) -> Callable[[str, str, str | None], None]:
    return controlnet.export if controlnet.is_controlnet(checkpoint) else pipeline.export


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="oboro", description=__doc__)
    commands = parser.add_subparsers(required=True)
    to_us = commands.add_parser(
        "import", help="the folder of a diffusers pipeline, or ControlNet, becomes a checkpoint"
    )
    to_us.add_argument("folder")
    to_us.add_argument("checkpoint", type=output_file, help="the .ckpt file to write")
    to_us.add_argument("--base", help="of a ControlNet: the checkpoint, imported before, whose network it controls")
    to_us.set_defaults(run=lambda a: pipeline.save_checkpoint(imported(a.folder, a.base), a.checkpoint))
    single = commands.add_parser("import-ldm", help="a file of LDM or Stable Diffusion becomes a checkpoint")
    single.add_argument("weights", help=".safetensors or .ckpt")
    single.add_argument("yaml", help="the settings it was published with")
    single.add_argument("tokenizer", help="the folder of its tokenizer")
    single.add_argument("checkpoint", type=output_file, help="the .ckpt file to write")
    single.set_defaults(
        run=lambda a: pipeline.save_checkpoint(pipeline.build(ldm.read(a.weights, a.yaml, a.tokenizer)), a.checkpoint)
    )
    to_them = commands.add_parser(
        "export", help="a checkpoint becomes the folder of a diffusers pipeline; one with a ControlNet, of that alone"
    )
    to_them.add_argument("checkpoint")
    to_them.add_argument("folder", type=new_folder, help="the folder to write, new or empty")
    to_them.add_argument("--profile", help="which average of the weights; the first one unless named")
    to_them.set_defaults(run=lambda a: exporting(a.checkpoint)(a.checkpoint, a.folder, a.profile))
    graph = commands.add_parser("onnx", help="the denoiser and the decoder of a checkpoint become ONNX files")
    graph.add_argument("checkpoint")
    graph.add_argument("folder", type=new_folder, help="the folder to write, new or empty")
    graph.add_argument("--profile", help="which average of the weights; the first one unless named")
    graph.set_defaults(run=lambda a: onnx.export(a.checkpoint, a.folder, a.profile))
    run(parser, arguments, lambda chosen: chosen.run(chosen))


if __name__ == "__main__":
    main()
