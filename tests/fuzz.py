"""Small valid files of every kind that others may bring, and what bit flips, cuts and lies make of them."""

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

import runs
from interop import tiny
from oboro.adapter.file import read_adapter
from oboro.data import Series
from oboro.data.image_folder import list_pictures
from oboro.data.metadata import read_metadata
from oboro.data.web_dataset import WebDataset
from oboro.ema.posthoc import read_snapshots, write_snapshot
from oboro.evaluate.sample_files import read_samples
from oboro.extractor.in_domain import InDomain, Recipe
from oboro.extractor.in_domain_training import InDomainNetwork
from oboro.interop import clip_text, unet
from oboro.interop.state import read_tensors
from oboro.interop.weights import read_json, read_yaml
from oboro.modality import Image as Pictures
from oboro.modality.table import read_table
from oboro.report.collect import collect
from oboro.restore.checkpoint import load_checkpoint
from oboro.sweep.sweep import Sweep

# What a length, an offset or a count may lie.
LIES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1, 10**9, 10**13)
TEXTS = (
    *(b"null", b"NaN", b"-1", b"1e999", b"9" * 400, b"true", b'"a"', b"[]", b"{}", b"[[[[" * 60, b'{"a":' * 300),
    *(b'{"_target_": "os.getcwd"}', b"${oc.env:HOME}", b"../../../etc/passwd", b"\x1b[2J", b"\xff\xfe", b"\x00"),
)


@dataclass(frozen=True)
class Kind:
    """A file ``name`` of a folder that ``write`` fills, and ``read``, which is given the folder."""

    name: str
    write: Callable[[Path], object]
    read: Callable[[Path], object]
    examples: int = 40

    @property
    def is_text(self) -> bool:
        return self.name.rpartition(".")[2] in ("json", "jsonl", "csv", "yaml", "txt")


def spoiled(content: bytes, text: bool) -> st.SearchStrategy[bytes]:
    """``content`` after one to four changes."""
    places = st.integers(0, max(len(content) - 1, 0)) | st.integers(0, min(len(content) - 1, 600))
    flip = st.tuples(st.just("flip"), places, st.integers(0, 7))
    cut = st.tuples(st.just("cut"), places, st.integers(0, 300))
    end = st.tuples(st.just("end"), places, st.just(0))
    copy = st.tuples(st.just("copy"), places, st.integers(1, 300))
    swap = st.tuples(st.just("swap"), places, places)
    lie = st.tuples(
        st.just("lie"), places, st.tuples(st.sampled_from(LIES), st.sampled_from((1, 2, 4, 8)), st.booleans())
    )
    word = st.tuples(st.just("word"), st.integers(0, 200), st.sampled_from(TEXTS))
    changes = [word, word, cut, copy, flip, end] if text else [flip, cut, end, copy, swap, lie, word]
    return st.lists(st.one_of(changes), min_size=1, max_size=4).map(lambda list_: after(content, list_))


def after(content: bytes, changes: list[tuple]) -> bytes:
    for what, place, how in changes:
        if what == "flip":
            if not content:
                continue
            place %= len(content)
            content = content[:place] + bytes([content[place] ^ 1 << how]) + content[place + 1 :]
        elif what == "cut":
            content = content[:place] + content[place + how :]
        elif what == "end":
            content = content[:place]
        elif what == "copy":
            content = content[: place + how] + content[place:]
        elif what == "swap":
            a, b = sorted((place, how))
            content = content[:a] + content[b : b + 64] + content[a + 64 : b] + content[a : a + 64] + content[b + 64 :]
        elif what == "lie":
            value, size, big = how
            lie = (value % 256**size).to_bytes(size, "big" if big else "little")
            content = content[:place] + lie + content[place + size :]
        else:  # one value of a text becomes another
            content = replaced(content, place, how)
    return content


def replaced(content: bytes, number: int, word: bytes) -> bytes:
    """``word`` in the place of a number, a quoted text or a bare word."""
    values = list(re.finditer(rb'-?\d[\d.e+-]*|"[^"]*"|[A-Za-z_]\w*', content))
    if not values:
        return word
    found = values[number % len(values)]
    return content[: found.start()] + word + content[found.end() :]


def png(mode: str = "RGB", side: int = 8, kind: str = "PNG", **more) -> bytes:
    file = io.BytesIO()
    rng = np.random.default_rng(0)
    shape = (side, side) if mode in ("L", "P", "1") else (side, side, len(mode))
    Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8), None if mode in ("P", "1") else mode).convert(
        mode
    ).save(file, kind, **more)
    return file.getvalue()


def pictures(suffix: str, **more) -> Kind:
    kind = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(suffix, suffix.upper())

    def write(folder: Path) -> None:
        (folder / f"a.{suffix}").write_bytes(png(kind=kind, **more))

    return Kind(f"a.{suffix}", write, lambda folder: Pictures(3, 8, 8).read_fitted(folder / f"a.{suffix}"))


def npz(folder: Path) -> None:
    np.savez(folder / "a.npz", images=np.zeros((4, 8, 8, 3), np.uint8), labels=np.arange(4))


def series(name: str) -> Kind:
    def write(folder: Path) -> None:
        values = np.arange(24.0).reshape(2, 3, 4)
        if name == "a.csv":
            (folder / name).write_text("a,b\n" + "".join(f"{i},{i / 7}\n" for i in range(12)))
        elif name == "a.npz":
            np.savez(folder / name, series=values, labels=np.arange(2))
        else:
            np.save(folder / name, values[0])

    def read(folder: Path) -> None:
        if name == "a.npz":
            source = Series(path=str(folder / name), cache_dir=str(folder / "cache")).source()
            list(source.blocks())
        else:
            read_table(folder / name)

    return Kind(name, write, read)


def shard(folder: Path) -> None:
    with tarfile.open(folder / "a.tar", "w") as tar:
        for i in range(3):
            for suffix, content in (("png", png()), ("txt", b"a cat"), ("json", b'{"label": 1, "caption": "x"}')):
                member = tarfile.TarInfo(f"{i:04}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def read_shard(folder: Path) -> None:
    data = WebDataset(
        shards=str(folder / "*.tar"), resolution=8, channels=3, num_classes=2, cache_dir=str(folder / "c")
    )
    list(data.source().blocks())
    data.count_classes()


def jsonl(folder: Path) -> None:
    (folder / "a.png").write_bytes(png())
    rows = [{"file_name": "a.png", "text": "a cat", "label": 0}, {"file_name": "b.png", "text": "é", "label": 1}]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def csv_rows(folder: Path) -> None:
    (folder / "metadata.csv").write_text('file_name,text,label\na.png,"a, cat",0\nb.png,"b ""q""",1\n')


def parquet(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table({"file_name": ["a.png", "b.png"], "text": ["x", "y"], "label": [0, 1]}), folder / "metadata.parquet"
    )


def caption(folder: Path) -> None:
    (folder / "a.png").write_bytes(png())
    (folder / "a.txt").write_text("a cat\nand a dog")


def weights(suffix: str, **more) -> Kind:
    state = {
        "a.weight": torch.arange(6.0).view(2, 3),
        "a.bias": torch.zeros(2, dtype=torch.float16),
        "n": torch.tensor(1),
    }

    def write(folder: Path) -> None:
        if suffix == "safetensors":
            (folder / f"a.{suffix}").write_bytes(save(state, {"format": "pt"}))
        else:
            torch.save({"state_dict": state}, folder / f"a.{suffix}", **more)

    return Kind(f"a.{suffix}", write, lambda folder: read_tensors(folder / f"a.{suffix}"))


def adapter(folder: Path) -> None:
    prefix = "base_model.model.a"
    tensors = {f"{prefix}.lora_A.weight": torch.ones(2, 3), f"{prefix}.lora_B.weight": torch.ones(4, 2)}
    header = {"adapter": json.dumps({"rank": 2, "alpha": 2.0, "targets": "attention"})}
    (folder / "a.safetensors").write_bytes(save(tensors, header))


def snapshot(folder: Path) -> None:
    averages = {name: {"w": torch.ones(2, 2)} for name in "ab"}
    write_snapshot(folder / "1.safetensors", 1, 1, {"a": 0.05, "b": 0.1}, averages)


def in_domain(folder: Path) -> None:
    recipe = {"channels": 1, "side": 24, "dim": 4, "classes": 2, "views": 10, "flip": False, "seed": 0}
    network = InDomainNetwork(Recipe(**recipe))
    origin = {"recipe": recipe, "images": 3, "result": {"task": "2 classes", "accuracy": 0.5, "held_out": 2}}
    (folder / "a.safetensors").write_bytes(save(network.state_dict(), {"origin": json.dumps(origin)}))


def read_in_domain(folder: Path) -> None:
    extractor = InDomain(weights_path=str(folder / "a.safetensors"))
    extractor.build()
    dict(extractor.described)


@cache
def a_checkpoint() -> bytes:
    folder = runs.cache_dir() / "fuzzed"
    return runs.train(folder, runs.NO_EVALUATION, "trainer.max_steps=1").last.read_bytes()


def checkpoint(folder: Path) -> None:
    (folder / "a.ckpt").write_bytes(a_checkpoint())


@cache
def diffusers_unet() -> dict[str, bytes]:
    folder = runs.cache_dir() / "fuzzed_unet"
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    sizes = {"block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1, "sample_size": 8}
    tiny.scramble(tiny.diffusers.UNet2DModel(**blocks, **sizes, add_attention=False)).save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_unet(folder: Path) -> None:
    for name, content in diffusers_unet().items():
        (folder / name).write_bytes(content)


TABLE = {"_target_": "oboro.schedule.DDPM", "steps": 1000}


@cache
def clip_folder() -> dict[str, bytes]:
    folder = runs.cache_dir() / "fuzzed_clip"
    tiny.clip().save_pretrained(folder)
    tiny.tokenizer(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_clip(folder: Path) -> None:
    for name, content in clip_folder().items():
        (folder / name).write_bytes(content)


def result(folder: Path) -> None:
    from report.sweeps import Sweep as Jobs

    Jobs(folder).job(3.0, 0.5)
    (folder / "evaluation.json").write_bytes((folder / "0/evaluation.json").read_bytes())
    (folder / "0/evaluation.json").unlink()


def read_result(folder: Path) -> None:
    from oboro.cli.benchmark import benchmark

    (folder / "0/evaluation.json").write_bytes((folder / "evaluation.json").read_bytes())
    collect(folder)
    benchmark(folder)


def account(folder: Path) -> None:
    job = {"number": 0, "overrides": ["a=1"], "varied": ["a=1"], "path": "0", "status": "failed"}
    options = {"parallel": 1, "timeout": None}
    plain = {"command": ["train.py"], "cwd": "/", "arguments": ["a=1"], "options": options, "jobs": [job]}
    (folder / "jobs.json").write_text(json.dumps(plain))


def ldm_yaml(folder: Path) -> None:
    (folder / "a.yaml").write_text(
        "model:\n  params:\n    linear_start: 0.0001\n    timesteps: 1000\n    list: [1, 2]\n"
    )


KINDS = {
    "checkpoint": Kind("a.ckpt", checkpoint, lambda folder: load_checkpoint(folder / "a.ckpt")),
    "weights of torch": weights("pt"),
    "weights of old torch": weights("bin", _use_new_zipfile_serialization=False),
    "weights of safetensors": weights("safetensors"),
    "adapter": Kind("a.safetensors", adapter, lambda folder: read_adapter(folder / "a.safetensors")),
    "snapshot": Kind("1.safetensors", snapshot, read_snapshots),
    "learned extractor": Kind("a.safetensors", in_domain, read_in_domain),
    "samples in npz": Kind("a.npz", npz, lambda folder: read_samples(folder / "a.npz", Pictures(3, 8, 8), 4)),
    "series in npz": series("a.npz"),
    "series in npy": series("a.npy"),
    "series in csv": series("a.csv"),
    "shard": Kind("a.tar", shard, read_shard),
    "metadata.jsonl": Kind("metadata.jsonl", jsonl, lambda folder: read_metadata(folder, ["metadata.jsonl"])),
    "metadata.csv": Kind("metadata.csv", csv_rows, lambda folder: read_metadata(folder, ["metadata.csv"])),
    "metadata.parquet": Kind("metadata.parquet", parquet, lambda folder: read_metadata(folder, ["metadata.parquet"])),
    "caption": Kind("a.txt", caption, list_pictures),
    "settings of a network": Kind("config.json", write_unet, lambda folder: unet.load(folder, TABLE)),
    "settings of a text encoder": Kind("config.json", write_clip, lambda folder: clip_text.load(folder, folder)),
    "tokenizer": Kind("tokenizer.json", write_clip, lambda folder: clip_text.load(folder, folder)),
    "settings of a tokenizer": Kind("tokenizer_config.json", write_clip, lambda f: clip_text.load(f, f)),
    "settings in YAML": Kind("a.yaml", ldm_yaml, lambda folder: read_yaml(folder / "a.yaml")),
    "settings in JSON": Kind("config.json", write_unet, lambda folder: read_json(folder / "config.json")),
    "result": Kind("evaluation.json", result, read_result),
    "account of a sweep": Kind("jobs.json", account, Sweep.load),
    **{f"picture.{suffix}": pictures(suffix) for suffix in ("png", "jpg", "gif", "bmp", "tif", "webp", "jp2", "ico")},
    "compressed picture.tif": pictures("tif", compression="tiff_lzw"),
    "zip of nothing": Kind(
        "a.npz",
        lambda f: zipfile.ZipFile(f / "a.npz", "w").close(),
        lambda f: read_samples(f / "a.npz", Pictures(3, 8, 8), 0),
    ),
}
