"""A folder of a diffusers pipeline ↔ a checkpoint of ours, which sample.py and evaluate.py read."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.utils import get_class, instantiate

from oboro.base.errors import UserError
from oboro.interop import autoencoder, clip_text, schedule, unet
from oboro.interop.hub import unpacked
from oboro.interop.weights import of_others, read_json, write_json
from oboro.restore import State, load_parts
from oboro.restore.archive import write_checkpoint
from oboro.restore.checkpoint import BUILT, check_kind, load_checkpoint
from oboro.restore.foreign import refuse_foreign
from oboro.restore.merge import merged
from oboro.restore.modality import modality_of
from oboro.restore.rebuild import averaged, build_task
from oboro.task import Diffusion, Generation

PIXELS = ("DDPMPipeline", "DDIMPipeline", "PNDMPipeline")
TEXTS = ("StableDiffusionPipeline",)
VERSION = "0.35.0"  # of the layout that is written; newer ones read it
STEPS = 50


class Published(NamedTuple):
    """What a file or folder of others holds: the parts of a task, and the weights of each by its place in it."""

    denoiser: dict[str, Any]
    codec: dict[str, Any]
    conditioner: dict[str, Any]
    guidance: dict[str, Any]
    sampler: dict[str, Any]
    parts: dict[str, State]
    channels: int  # of an image
    resolution: int | list[int]


@of_others
def read(folder: str | Path) -> Published:
    """What the folder of a pipeline of ``PIXELS`` or ``TEXTS`` holds; ``UserError`` for any other."""
    folder = unpacked(Path(folder).expanduser(), "model_index.json")
    kind = read_json(folder / "model_index.json").get("_class_name")
    if kind not in (*PIXELS, *TEXTS):
        raise UserError(f"{folder} is a {kind}; only {', '.join((*PIXELS, *TEXTS))} can be had, choose another model.")
    settings = read_json(folder / "scheduler" / "scheduler_config.json")
    table = schedule.our_schedule(settings, folder / "scheduler")
    aim, sampler = schedule.our_parameterization(settings, folder / "scheduler"), schedule.our_sampler(settings, STEPS)
    side = read_json(folder / "unet" / "config.json").get("sample_size")
    if not side:
        raise UserError(f"{folder / 'unet'} has no sample_size; add it to its config.json.")
    if kind in PIXELS:
        network, state = unet.load(folder / "unet", table)
        identity = {"_target_": "oboro.codec.Identity", "channels": network["in_channels"]}
        conditioning = without_text(network["num_classes"])
        return Published(
            denoiser(network, aim),
            identity,
            *conditioning,
            sampler,
            {"denoiser.network": state},
            network["in_channels"],
            side,
        )
    codec, codec_state = autoencoder.load(folder / "vae")
    encoder, encoder_state = clip_text.load(folder / "text_encoder", folder / "tokenizer")
    network, state = unet.load(folder / "unet", table, encoder["length"])
    return with_text(network, state, aim, codec, codec_state, encoder, encoder_state, sampler, side)


def denoiser(network: dict[str, Any], parameterization: dict[str, Any]) -> dict[str, Any]:
    return {
        "_target_": "oboro.denoiser.Denoiser",
        "network": network,
        "schedule": network["noise"]["table"],
        "parameterization": parameterization,
    }


def without_text(num_classes: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Conditioner and guidance."""
    unguided = {"_target_": "oboro.guidance.Unguided"}
    if num_classes:
        return {"_target_": "oboro.conditioner.Label", "num_classes": num_classes, "dropout": 0.0}, unguided
    return {"_target_": "oboro.conditioner.Unconditional"}, unguided


def with_text(
    network: dict[str, Any],
    state: State,
    parameterization: dict[str, Any],
    codec: dict[str, Any],
    codec_state: State,
    encoder: dict[str, Any],
    encoder_state: State,
    sampler: dict[str, Any],
    side: int | list[int],
) -> Published:
    """The parts of Stable Diffusion. Raises ``UserError`` where they do not fit together."""
    if (network.get("text_dim"), network["in_channels"]) != (encoder["dim"], codec["channels"]):
        raise UserError(
            f"the network reads texts of width {network.get('text_dim')} and latents of {network['in_channels']} "
            f"channels and there are {encoder['dim']} and {codec['channels']}; take all parts from one folder."
        )
    factor = 2 ** (len(codec["channel_mult"]) - 1)
    conditioner = {
        "_target_": "oboro.conditioner.Text",
        "encoder": encoder,
        "text_dim": encoder["dim"],
        "pooled_dim": encoder["dim"],
        "dropout": 0.1,
        "prompts": [],
    }
    guidance = {"_target_": "oboro.guidance.ClassifierFree", "scale": 7.5}
    guidance["weight"] = {"_target_": "oboro.guidance.weight.Constant"}
    parts = {
        "denoiser.network": {**state, "empty_text.tokens": clip_text.empty_text(encoder, encoder_state)},
        "codec": codec_state,
        "conditioner.encoder": encoder_state,
    }
    size = [factor * s for s in side] if isinstance(side, list) else factor * side
    made = denoiser(network, parameterization)
    return Published(made, codec, conditioner, guidance, sampler, parts, codec["in_channels"], size)


def run_config(published: Published) -> dict[str, Any]:
    """The configuration of a run that could have made it, as checkpoints hold it.

    Its ``data`` are a folder that is not named: sampling needs none, and evaluation is told with data.root=….
    """
    loss = {"_target_": "oboro.loss.Denoising", "time": {"_target_": "oboro.loss.time.Uniform"}}
    for key, name in (("weighting", "Uniform"), ("penalty", "Squared"), ("coupling", "Independent")):
        loss[key] = {"_target_": f"oboro.loss.{key}.{name}"}
    decay = {"_target_": "oboro.optimizer.Constant"}
    average = {"_target_": "oboro.ema.ConstantDecay", "decay": 0.9999, "warmup": 9.0}
    task = {
        "_target_": "oboro.task.Diffusion",
        "denoiser": published.denoiser,
        "codec": published.codec,
        "conditioner": published.conditioner,
        "loss": loss,
        "guidance": published.guidance,
        "sampler": published.sampler,
        "ema": {"_target_": "oboro.ema.EMA", "profiles": {"published": average}},
        "optimizer": {"_target_": "oboro.optimizer.AdamW", "lr": 1e-5, "warmup_steps": 1000, "decay": decay},
        "seed": 0,
    }
    data = {
        "_target_": "oboro.data.ImageFolder",
        "root": "???",
        "channels": published.channels,
        "resolution": published.resolution,
        "num_classes": published.conditioner.get("num_classes", 0),
        "batch_size": 64,
    }
    return {
        "task": task,
        "data": data,
        "sampler": published.sampler,
        "guidance": published.guidance,
        "metrics": {"frechet": {"_target_": "oboro.metrics.Frechet"}},
        "extractor": {"_target_": "oboro.extractor.Inception", "weights_path": None},
        "trainer": {"precision": "32-true", "max_steps": 0},
        "seed": 0,
    }


def build(published: Published) -> Diffusion:
    """The task, in evaluation mode, that samples what was published; its average is the published weights."""
    config = run_config(published)
    refuse_foreign(config, BUILT, "the model")
    task: Diffusion = instantiate(config["task"], _convert_="all")
    load_parts(task, published.parts)
    task.config = config
    task.modality = modality_of({"config": config})
    task.ema.start(task.learned)
    return task.eval().requires_grad_(False)


def save_checkpoint(task: Generation, path: str | Path) -> None:
    """What sample.py, evaluate.py, ``init=`` and ``guidance=autoguidance`` read."""
    checkpoint = {"state_dict": task.state_dict(), "global_step": 0}
    task.on_save_checkpoint(checkpoint)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(checkpoint, Path(path))


def load_pipeline(folder: str | Path) -> Diffusion:
    """The task that draws what the pipeline in ``folder`` draws."""
    return build(read(folder))


def in_full(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` with the defaults of its class, and so every part of it that has a class."""
    parameters = inspect.signature(get_class(config["_target_"])).parameters.values()
    full = {p.name: p.default for p in parameters if p.default is not p.empty} | dict(config)
    full = {key: asdict(value) if is_dataclass(value) else value for key, value in full.items()}
    return {key: in_full(v) if isinstance(v, dict) and "_target_" in v else v for key, v in full.items()}


def export(checkpoint: str | Path, folder: str | Path, profile: str | None = None) -> None:
    """Write the averaged weights ``profile`` of a checkpoint as a pipeline that diffusers loads.

    Raises ``UserError`` for a part that has no twin in diffusers; ``model_index.json`` is then not written.
    """
    content = merged(load_checkpoint(checkpoint))
    check_kind(content, checkpoint, "diffusion")
    task = build_task(content)
    averaged(task, checkpoint, profile)
    export_task(task, content["config"], Path(folder).expanduser())


def export_task(task: Generation, config: Mapping[str, Any], folder: Path) -> None:
    parts, data = config["task"], config["data"]
    network, codec, conditioner = (parts["denoiser"]["network"], parts["codec"], parts["conditioner"])
    text = check_exportable(network, codec, conditioner)
    scheduler = schedule.their_scheduler(
        parts["denoiser"]["schedule"],
        parts["denoiser"]["parameterization"],
        1 if text else 0,
        task.loss.teaches_jumps,
    )
    if parts["denoiser"]["schedule"] != network["noise"]["table"]:
        raise UserError(
            "the network counts noise levels by another table than its schedule, and diffusers' pipelines by one; "
            "train with the same values below schedule and model.noise.table."
        )
    size = data["resolution"]
    sides = [size, size] if isinstance(size, int) else list(size)
    if text:
        _, *sides = task.codec.latent_shape((data["channels"], *sides))
        check_empty_text(task)
        encoder = in_full(conditioner["encoder"])
        clip_text.save(folder / "text_encoder", folder / "tokenizer", encoder, task.conditioner.encoder)
        autoencoder.save(folder / "vae", in_full(codec), task.codec, max(size if isinstance(size, list) else [size]))
    side = sides[0] if sides[0] == sides[1] else sides
    unet.save(folder / "unet", in_full(network), task.denoiser.network, side)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    kind = "UNet2DConditionModel" if text else "UNet2DModel"
    index = {"scheduler": ["diffusers", scheduler["_class_name"]], "unet": ["diffusers", kind]}
    if text:
        index |= {"vae": ["diffusers", "AutoencoderKL"], "text_encoder": ["transformers", "CLIPTextModel"]}
        index |= {"tokenizer": ["transformers", "CLIPTokenizer"], "requires_safety_checker": False}
        index |= {key: [None, None] for key in ("safety_checker", "feature_extractor", "image_encoder")}
    by_scheduler = "DDPMPipeline" if task.loss.teaches_jumps else "DDIMPipeline"  # which takes any, and DDIM's alone
    name = "StableDiffusionPipeline" if text else by_scheduler
    write_json(folder / "model_index.json", {"_class_name": name, "_diffusers_version": VERSION, **index})


def check_exportable(network: Mapping[str, Any], codec: Mapping[str, Any], conditioner: Mapping[str, Any]) -> bool:
    """Whether it is a model of texts. Raises ``UserError`` where there is no pipeline of such parts."""
    kind, *others = (config["_target_"].rpartition(".")[2] for config in (network, codec, conditioner))
    if kind != "LDMUNet":
        raise UserError(
            f"{kind} has no twin in diffusers, whose networks are told the index of a noise level and ours its "
            "log-SNR; train with model=ldm_unet, which can be exported."
        )
    if others == ["Identity", "Unconditional"]:
        return False
    if others == ["Autoencoder", "Text"] and conditioner["encoder"]["_target_"] == "oboro.model.CLIPText":
        return True
    raise UserError(
        f"diffusers has no pipeline for codec {others[0]} with conditioner {others[1]} as they are set; export a "
        "model of codec=identity conditioner=unconditional, or of codec=diffusers conditioner=text_clip."
    )


def check_empty_text(task: Generation) -> None:
    """Raises ``UserError`` where no text is something else than the empty text, which diffusers takes for it."""
    with torch.no_grad():
        empty = task.conditioner.encoder.encode_tokens([""])[0][0]
    if not torch.allclose(task.denoiser.network.empty_text.tokens, empty, atol=1e-4):
        raise UserError(
            "the network was taught something else for no text than the empty text, which diffusers takes for it; "
            "train with model=ldm_unet_text."
        )
