"""Weights as people have them: many ways to wrap, split and name the same ones, and files that are none."""

import json
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from oboro.base.errors import UserError
from oboro.interop import hub
from oboro.interop.state import plain_names, read_object, read_tensors
from oboro.interop.weights import ours, read_weights

WEIGHTS = {
    "conv_in.weight": torch.arange(4.0).view(2, 2),
    "conv_in.bias": torch.tensor([5.0, 6.0]),
    "scale": torch.tensor(2.0),
}
STEM = "diffusion_pytorch_model"


def before(prefix: str, **more) -> dict:
    return {f"{prefix}{name}": value for name, value in WEIGHTS.items()} | more


def same(found: dict) -> bool:
    return found.keys() == WEIGHTS.keys() and all(torch.equal(found[k], v) for k, v in WEIGHTS.items())


WRAPPED = {
    "plain": WEIGHTS,
    "compiled": before("_orig_mod."),
    "DDP": before("module."),
    "compiled DDP": before("module._orig_mod."),
    "DDP, compiled": before("_orig_mod.module."),
    "a compiled part": {
        "conv_in._orig_mod.weight": WEIGHTS["conv_in.weight"],
        "conv_in._orig_mod.bias": WEIGHTS["conv_in.bias"],
        "scale": WEIGHTS["scale"],
    },
    "FSDP": before("_fsdp_wrapped_module."),
    "checkpointed": before("_checkpoint_wrapped_module."),
    "DeepSpeed": before("_forward_module.module."),
    "a training module": before("model."),
    "an average": before("ema."),
    "an average with its counter": before("module.", n_averaged=torch.tensor(7)),
    "of lucidrains": before("ema_model.", initted=torch.tensor(True), step=torch.tensor(9)),
    "Lightning's": {"state_dict": before("model."), "epoch": 3, "global_step": 7, "optimizer_states": [{"lr": 0.1}]},
    "Lightning's, compiled": {"state_dict": before("model._orig_mod."), "hparams_name": "kwargs"},
    "below model": {"model": WEIGHTS, "iteration": 4},
    "below module, of DDP": {"module": before("module.")},
    "below state_dict twice": {"state_dict": {"state_dict": WEIGHTS}},
    "of an average": {"ema": WEIGHTS, "step": 3},
    "beside what is no tensor": {**WEIGHTS, "version": 3, "name": "net"},
}


@pytest.mark.parametrize("content", WRAPPED.values(), ids=WRAPPED.keys())
def test_wrapped_weights_are_the_weights(content, tmp_path):
    for name, legacy in (("model.ckpt", False), ("model.pth", True)):
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=not legacy)
        assert same(read_tensors(tmp_path / name))
    if all(isinstance(value, torch.Tensor) for value in content.values()):
        save_file(content, tmp_path / "model.safetensors")
        save_file(content, tmp_path / "called.bin")  # what a file is called does not decide
        assert same(read_tensors(tmp_path / "model.safetensors")) and same(read_tensors(tmp_path / "called.bin"))
        assert read_tensors(tmp_path / "model.safetensors", wanted=lambda name: name == "scale").keys() == {"scale"}


def test_names_that_are_somebody_s_own_are_left_alone():
    """LDM's files have all parts, OpenCLIP's begin with visual, and a model may have a part of such a name."""
    for names in (["model.diffusion_model.a", "first_stage_model.b"], ["visual.a", "transformer.b"], ["a.module.b"]):
        assert list(plain_names(dict.fromkeys(names, False), Path()).values()) == names


TWICE = {
    "raw and averaged": (before("model.") | before("ema."), "holds weights below ema and below model"),
    "of lucidrains, both": (before("ema_model.") | before("online_model."), "below ema_model and below online_model"),
    "under two keys": ({"model": WEIGHTS, "ema": WEIGHTS}, "holds weights under model and ema"),
    "compiled and not": (WEIGHTS | before("_orig_mod."), "holds weights twice, once as they were compiled"),
}


@pytest.mark.parametrize(("content", "match"), TWICE.values(), ids=TWICE.keys())
def test_two_sets_of_weights_are_not_chosen_from(content, match, tmp_path):
    torch.save(content, tmp_path / "both.pth")
    with pytest.raises(UserError, match=match):
        read_tensors(tmp_path / "both.pth")


# --- folders


def sharded(folder: Path, index: str, shards: list[str], write) -> None:
    """A weight in each file, below DDP's prefix, which no shard shows to be that of all."""
    place = {}
    for shard, (name, value) in zip(shards, WEIGHTS.items(), strict=True):
        write({f"module.{name}": value}, folder / shard)
        place[f"module.{name}"] = shard
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": place}))


def halves(state: dict, path: Path) -> None:
    save_file({name: value.half() for name, value in state.items()}, path)


PARTS = [f"{STEM}-0000{i}-of-00003" for i in (1, 2, 3)]
FOLDERS = {
    "one file": lambda f: save_file(WEIGHTS, f / f"{STEM}.safetensors"),
    "a pickle": lambda f: torch.save(WEIGHTS, f / f"{STEM}.bin"),
    "fp16": lambda f: halves(WEIGHTS, f / f"{STEM}.fp16.safetensors"),
    "bf16": lambda f: save_file({k: v.bfloat16() for k, v in WEIGHTS.items()}, f / f"{STEM}.bf16.safetensors"),
    "fp16 in a pickle": lambda f: torch.save({k: v.half() for k, v in WEIGHTS.items()}, f / f"{STEM}.fp16.bin"),
    "shards": lambda f: sharded(f, f"{STEM}.safetensors.index.json", [f"{p}.safetensors" for p in PARTS], save_file),
    "shards of pickles": lambda f: sharded(f, f"{STEM}.bin.index.json", [f"{p}.bin" for p in PARTS], torch.save),
    "shards of fp16": lambda f: sharded(
        f, f"{STEM}.safetensors.index.fp16.json", [f"{p}.fp16.safetensors" for p in PARTS], halves
    ),
    "shards of fp16, by the former name": lambda f: sharded(
        f, f"{STEM}.fp16.safetensors.index.json", [f"{p}.fp16.safetensors" for p in PARTS], halves
    ),
}


@pytest.mark.parametrize("write", FOLDERS.values(), ids=FOLDERS.keys())
def test_folders_of_each_layout_hold_the_same_weights(write, tmp_path):
    write(tmp_path)
    found = read_weights(tmp_path, STEM)
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name].float(), value) for name, value in WEIGHTS.items())


def test_of_both_the_full_precision_is_read(tmp_path):
    zero = {name: torch.zeros_like(value) for name, value in WEIGHTS.items()}
    halves(zero, tmp_path / f"{STEM}.fp16.safetensors")
    torch.save(zero, tmp_path / f"{STEM}.fp16.bin")
    torch.save(WEIGHTS, tmp_path / f"{STEM}.bin")
    assert same(read_weights(tmp_path, STEM))
    torch.save(zero, tmp_path / f"{STEM}.bin")
    save_file(WEIGHTS, tmp_path / f"{STEM}.safetensors")
    assert same(read_weights(tmp_path, STEM))


INDICES = {
    "a shard elsewhere": ({"weight_map": {"a": "../secret.safetensors"}}, "lists no files of weights"),
    "no names": ({"weight_map": {"a": 1}}, "lists no files of weights"),
    "a list": ({"weight_map": ["a"]}, "lists no files of weights"),
    "nothing": ({}, "lists no files of weights"),
    "a shard that is missing": ({"weight_map": {"a": "x.safetensors"}}, "there is no .*x.safetensors"),
}


@pytest.mark.parametrize(("index", "match"), INDICES.values(), ids=INDICES.keys())
def test_an_index_that_lists_what_is_not_there_is_refused(index, match, tmp_path):
    (tmp_path / f"{STEM}.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=match):
        read_weights(tmp_path, STEM)


def test_a_model_s_folder_in_the_hub_s_cache_stands_for_its_snapshot(tmp_path):
    model = tmp_path / "models--somebody--model"
    one = model / "snapshots" / "1a2b"
    one.mkdir(parents=True)
    (one / "config.json").write_text("{}")
    for given in (model, model / "snapshots", one):
        assert hub.unpacked(given, "config.json") == one
    (model / "snapshots" / "3c4d").mkdir()
    with pytest.raises(UserError, match="has 2 snapshots; give the path of one of them"):
        hub.unpacked(model, "config.json")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("3c4d\n")
    assert hub.unpacked(model, "config.json").name == "3c4d"


# --- files that are none


def header(content: dict | bytes, length: int | None = None, data: bytes = b"") -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def lying(shape: list[int], end: int) -> dict:
    return {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}


def zipped(path: Path) -> None:
    torch.save({"a": torch.zeros(10**6)}, path.with_suffix(".plain"))
    with zipfile.ZipFile(path.with_suffix(".plain")) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry), zipfile.ZIP_DEFLATED)


def claiming(numbers: int):
    """A file whose pickle says that a tensor of 4 numbers, and its storage, has so many."""

    def write(path: Path) -> None:
        torch.save({"a": torch.arange(4.0)}, path.with_suffix(".plain"))
        said = b"J" + struct.pack("<i", numbers)
        with zipfile.ZipFile(path.with_suffix(".plain")) as source, zipfile.ZipFile(path, "w") as target:
            for entry in source.infolist():
                content = source.read(entry)
                if entry.filename.endswith("data.pkl"):
                    assert content.count(b"K\x04") == 2
                    content = content.replace(b"K\x04", said)
                target.writestr(entry.filename, content)

    return write


def objects(path: Path) -> None:
    torch.save({"state_dict": WEIGHTS, "callbacks": {Path: 1}}, path)


def legacy(path: Path) -> None:
    """The former format of torch, whose pickle says of a storage that it has 10^12 numbers."""
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 20])


SAFE = "w.safetensors"
BROKEN = {
    "empty": (SAFE, b"", "is empty"),
    "empty pickle": ("w.bin", b"", "is empty"),
    "a page of HTML": (SAFE, b"<!DOCTYPE html><html>not found</html>", "cut off or no file of safetensors"),
    "HTML for a pickle": ("w.ckpt", b"<!DOCTYPE html><html>", "damaged or something else"),
    "a pointer of LFS": (SAFE, b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
    "a pointer for a pickle": ("w.bin", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "a header of 10^18 bytes": (SAFE, header({}, length=10**18), "cut off or no file of safetensors"),
    "a header longer than the file": (SAFE, header({}, length=1000), "cut off or no file of safetensors"),
    "cut off": (SAFE, header(lying([4], 16), data=b"1234"), "damaged or cut off"),
    "10^12 numbers": (SAFE, header(lying([10**12], 4 * 10**12), data=b"1234"), "damaged or cut off"),
    "numbers that overflow": (SAFE, header(lying([2**62, 2**62], 16), data=b"1" * 16), "damaged or cut off"),
    "another length than the shape": (SAFE, header(lying([3], 16), data=b"1" * 16), "damaged or cut off"),
    "an unknown type": (SAFE, header({"a": {"dtype": "F3", "shape": [], "data_offsets": [0, 0]}}), "damaged or cut"),
    "no JSON": (SAFE, header(b"{oops"), "damaged or cut off"),
    "deep JSON": (SAFE, header(b"{" + b'"a":{' * 10**4), "damaged or cut off"),
    "objects": ("w.ckpt", objects, r"holds pathlib\.\w+ beside weights, which may run code and is never built"),
    "compressed": ("w.pth", zipped, "is compressed and no file of torch.save"),
    "a former file, cut off": ("w.pth", legacy, "damaged or something else"),
    "one number more": ("w.pth", claiming(5), "damaged or something else"),
    "2^31 numbers": ("w.pth", claiming(2**31 - 1), "damaged or something else"),
    "a list": ("w.pth", lambda p: torch.save([1, 2], p), "holds a list and no state dict"),
    "a tensor": ("w.pth", lambda p: torch.save(torch.zeros(2), p), "holds a Tensor and no state dict"),
    "no tensors": ("w.pth", lambda p: torch.save({"a": 1}, p), "holds no weights"),
    "plain pickle": ("w.pkl", lambda p: p.write_bytes(pickle.dumps({"a": 1})), "damaged or something else|no weights"),
    "sparse": ("w.pth", lambda p: torch.save({"a": torch.eye(2).to_sparse()}, p), "has a without plain numbers"),
    "without numbers": (
        "w.pth",
        lambda p: torch.save({"a": torch.empty(2, device="meta")}, p),
        "has a without plain numbers",
    ),
}


@pytest.mark.parametrize(("name", "content", "match"), BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, about sparse tensors
def test_a_file_that_is_none_gets_one_line_and_no_memory(name, content, match, tmp_path):
    path = tmp_path / name
    if callable(content):
        content(path)
    else:
        path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(UserError, match=match) as error:
        read_tensors(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "\n" not in str(error.value) and str(error.value).endswith((".", "state_dict()."))
    assert str(path) in str(error.value) and peak < 50e6


def test_a_file_cut_off_anywhere_gets_one_line(tmp_path):
    for name, write in (("a.safetensors", save_file), ("a.ckpt", torch.save)):
        write(WEIGHTS, tmp_path / name)
        content = (tmp_path / name).read_bytes()
        for length in range(0, len(content) - 1, max(1, len(content) // 40)):
            (tmp_path / name).write_bytes(content[:length])
            with pytest.raises(UserError, match="get it again"):
                read_tensors(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"[" * 10**5, "is no JSON"),
        (b"\xff\xfe{}", "is no JSON"),
        (b"[]", "holds no JSON object"),
        (b"", "is no JSON"),
        (None, "there is no .*; give a folder."),
    ],
    ids=["deep", "UTF-16", "a list", "empty", "missing"],
)
def test_settings_that_are_none_get_one_line(content, match, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=match):
        read_object(tmp_path / "config.json", "give a folder")


def test_whole_numbers_are_not_taken_for_weights():
    """Of 8 bits and a scale, which lies elsewhere."""
    config = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2, "bias": False}
    with pytest.raises(UserError, match="has weight as int8, quantised; get the weights in 16 or 32 bits"):
        ours(config, {"weight": torch.ones(2, 2, dtype=torch.int8)}, lambda name: [name], "here")
