"""Files of others, spoiled in every way: they are read, or one line says why not, within bounds of memory."""

import io
import json
import os
import resource
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from PIL import Image

import fuzz
import runs
from oboro.base.errors import UserError
from oboro.base.torch_file import load
from oboro.data.web_dataset import LARGEST, WebDataset
from oboro.interop import clip_text, unet
from oboro.interop.weights import read_yaml
from oboro.modality import Image as Pictures
from oboro.report.collect import collect
from oboro.restore.checkpoint import load_checkpoint

MEMORY = 1500  # MB that reading a small file may take beyond what the process has
LONGEST = 2000  # characters of a message


def bounded(read, megabytes: int = MEMORY) -> str:
    """What ``read`` answers in a process of its own with so much memory: "read", or the message of a ``UserError``."""
    answer, question = os.pipe()
    child = os.fork()
    if not child:
        with os.fdopen(question, "w") as pipe:
            try:
                now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (now + megabytes * 2**20,) * 2)
                read()
                pipe.write("read")
            except UserError as error:
                pipe.write(str(error))
            except BaseException as error:
                pipe.write(f"Traceback {type(error).__name__}: {error}")
        os._exit(0)
    os.close(question)
    with os.fdopen(answer) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said or "it died"


def check(kind: fuzz.Kind, folder: Path, examples: int) -> None:
    kind.write(folder)
    file = folder / kind.name
    content = file.read_bytes()

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(fuzz.spoiled(content, kind.is_text))
    def reads_or_refuses(spoiled: bytes) -> None:
        file.write_bytes(spoiled)
        try:
            kind.read(folder)
        except UserError as error:
            assert len(str(error)) < LONGEST

    reads_or_refuses()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_a_spoiled_file_is_read_or_refused_in_one_line(kind, tmp_path, capfd):
    check(fuzz.KINDS[kind], tmp_path, 4 * fuzz.KINDS[kind].examples)


BIG = b"\x8a\x05" + (10**11).to_bytes(5, "little") + b"\x85R"  # called with 10^11
PICKLES = {
    "memory for a number": b"cbuiltins\nbytearray\n" + BIG,
    "a tensor without numbers": b"ctorch\nTensor\n" + BIG,
    "a storage without numbers": b"ctorch.storage\nUntypedStorage\n" + BIG,
    "a list in itself": b"]q\x00h\x00a",
    "tuples of 10,000 levels": b")" + b"\x85" * 10_000,
    "2^60 values": b")" + b"q\x00h\x00\x86" * 60,
    "an open mark": b"}(",
    "a call": b"cposix\nmkdir\n" + b"X\x04\x00\x00\x00boom\x85R",
}


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_builds_tensors_and_plain_values_alone(kind, tmp_path, monkeypatch):
    """F20."""
    monkeypatch.chdir(tmp_path)
    torch.save({"a": torch.zeros(3)}, "good.pt")
    with zipfile.ZipFile("good.pt") as good, zipfile.ZipFile("bad.ckpt", "w") as bad:
        for name in good.namelist():
            bad.writestr(name, b"\x80\x02" + PICKLES[kind] + b"." if name.endswith("data.pkl") else good.read(name))
    Path("bad.bin").write_bytes(b"\x80\x02" + PICKLES[kind] + b".")
    for file in ("bad.ckpt", "bad.bin"):
        assert "damaged or no checkpoint" in bounded(lambda f=file: load_checkpoint(f)), file
    assert not Path("boom").exists()


def test_what_torch_saves_is_what_is_loaded(tmp_path):
    shared = torch.arange(12.0)
    content = {
        "views": [shared[::2], shared.view(3, 4).T, shared],
        "types": {str(t): torch.zeros(2, dtype=t) for t in (torch.bfloat16, torch.int64, torch.bool, torch.complex64)},
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "plain": (b"abc", {1, 2}, 1 + 2j, torch.Size([3]), torch.float16, torch.device("cpu"), None, "é" * 300),
        "optimizer": torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]).state_dict(),
    }
    for zipped in (True, False):
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        found = load(tmp_path / "a.pt")
        assert (
            runs.equal(found, torch.load(tmp_path / "a.pt", weights_only=True)) and found["plain"] == content["plain"]
        )


def test_archives_and_tensors_that_claim_more_than_they_hold(tmp_path):
    torch.save({"a": torch.zeros(1).expand(10**9)}, tmp_path / "claim.ckpt")
    torch.save({"a": torch.zeros(2**24)}, tmp_path / "large.pt")
    packed = zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "large.pt") as large, packed as bomb:
        for name in large.namelist():
            bomb.writestr(name, large.read(name))
    (tmp_path / "large.pt").unlink()
    for name, words in (("claim", "damaged or no checkpoint"), ("bomb", "is compressed and was not written by oboro")):
        assert words in bounded(lambda n=name: load_checkpoint(tmp_path / f"{n}.ckpt"), 200)


@pytest.mark.slow
def test_a_setting_of_others_is_a_value_and_never_a_class(tmp_path):
    """F21, in the folders of other programs: ``instantiate`` would call what a dictionary names."""
    proof = tmp_path / "proof"
    call = {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": [str(proof)]}}
    for values in (call, [call], {"a": call}, "${oc.env:HOME}", float("nan"), "8x", [[8]] * 3):
        for key in ("in_channels", "dropout", "norm_num_groups", "block_out_channels", "freq_shift"):
            folder = tmp_path / "unet"
            folder.mkdir(exist_ok=True)
            fuzz.write_unet(folder)
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**config, key: values}))
            assert str(folder) in bounded(lambda f=folder: unet.load(f, fuzz.TABLE)), (key, values)
    for key, values in {"in_channels": 10**12, "block_out_channels": [10**9, 8], "layers_per_block": -1}.items():
        fuzz.write_unet(folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, key: values}))
        assert str(folder) in bounded(lambda f=folder: unet.load(f, fuzz.TABLE)), (key, values)
    folder = tmp_path / "clip"
    folder.mkdir()
    fuzz.write_clip(folder)
    config = json.loads((folder / "config.json").read_text())
    for key in ("hidden_size", "layer_norm_eps", "num_hidden_layers", "vocab_size"):
        (folder / "config.json").write_text(json.dumps({**config, key: call}))
        assert str(folder) in bounded(lambda: clip_text.load(folder, folder)), key
    assert not proof.exists()


DOUBLED = "b0: &b0 [x, x]\n" + "".join(f"b{i}: &b{i} [*b{i - 1}, *b{i - 1}]\n" for i in range(1, 60))
YAML = {
    "references": DOUBLED,
    "objects": "a: !!python/object/apply:os.mkdir [boom]",
    "brackets": "[" * 5000,
    "levels": "".join(f"{'  ' * i}a:\n" for i in range(900)),
    "colons": "a: b: c",
    "bytes": "\t\x00",
    "keys": "".join(f"k{i}: 1\n" for i in range(300_000)),
}


@pytest.mark.parametrize("text", YAML.values(), ids=YAML)
def test_yaml_of_others(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(text)
    assert "is no YAML file" in bounded(lambda: read_yaml(Path("a.yaml")), 200)
    assert not Path("boom").exists()


def shards(path: Path, *members: tarfile.TarInfo, mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:
        for member in members:
            tar.addfile(member)


def test_shards_hold_files_of_a_size_and_nothing_else(tmp_path):
    """F27: links, devices, lies about sizes, a bomb, names that lead outside, one name twice."""
    outside = tmp_path / "outside.txt"
    outside.write_text("secret")
    folder = tmp_path / "shards"
    folder.mkdir()

    def member(name: str, **values) -> tarfile.TarInfo:
        made = tarfile.TarInfo(name)
        for key, value in values.items():
            setattr(made, key, value)
        return made

    def read(pattern: str = "*.tar") -> list:
        data = WebDataset(shards=str(folder / pattern), resolution=8, cache_dir=str(tmp_path / "cache"))
        return list(data.source().blocks())

    links = [
        member("../a.png", type=tarfile.SYMTYPE, linkname=str(outside)),
        member("/b.png", type=tarfile.LNKTYPE, linkname=str(outside)),
    ]
    shards(folder / "links.tar", *links, member("c.png", type=tarfile.CHRTYPE), member("d.png", type=tarfile.FIFOTYPE))
    assert bounded(lambda: read() == [] or pytest.fail("something was read")) == "read"
    (folder / "links.tar").unlink()
    claims = {"GNU.sparse.size": str(10**12), "GNU.sparse.map": "0,0", "GNU.sparse.name": "0.png"}
    sparse = member("0.png", pax_headers=claims)
    shards(folder / "sparse.tar", sparse)
    assert "too many for one part of a sample" in bounded(read)
    (folder / "sparse.tar").unlink()
    head = member("0.png", size=2**33).tobuf()
    (folder / "lies.tar").write_bytes(head + bytes(2**16))
    assert "too many for one part of a sample" in bounded(read)
    (folder / "lies.tar").unlink()
    with tarfile.open(folder / "bomb.tar.gz", "w:gz") as tar:  # a thousand times its size
        tar.addfile(member("0.png", size=LARGEST), io.BytesIO(bytes(LARGEST)))
    assert (
        bounded(lambda: [len(block.left_out) for block in read("*.tar.gz")] == [1] or pytest.fail("it was read"))
        == "read"
    )
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "png")
    for names, answer in ((["../a.png", "/b.png"], "read"), (["a.png", "a.png"], "duplicate")):
        with tarfile.open(folder / "names.tar", "w") as tar:
            for name in names:
                tar.addfile(member(name, size=picture.tell()), io.BytesIO(picture.getvalue()))
        assert answer in bounded(lambda: len(read()) == 1 or pytest.fail("too much was read"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside.txt", "shards"]


def test_a_picture_of_50000_by_50000_is_refused_before_it_is_decoded(tmp_path):
    """F26: PNG, GIF, BMP, TIFF and WebP headers that announce more than memory has."""
    for suffix in ("png", "gif", "bmp", "tif", "webp"):
        kind = fuzz.KINDS[f"picture.{suffix}"]
        kind.write(tmp_path)
        content = (tmp_path / kind.name).read_bytes()
        at, size, order = {"png": (16, 4, "big"), "gif": (6, 2, "little"), "bmp": (18, 4, "little")}.get(
            suffix, (0, 0, "big")
        )
        if size:
            lie = (50_000).to_bytes(size, order) * 2
            content = content[:at] + lie + content[at + len(lie) :]
        elif suffix == "tif":
            Image.new("L", (1, 1)).save(tmp_path / kind.name, tiffinfo={256: 50_000, 257: 50_000})
            content = (tmp_path / kind.name).read_bytes()
        else:
            content = content[:24] + b"\xff\xff\xff\xff\xff\xff" + content[30:]
        (tmp_path / kind.name).write_bytes(content)
        said = bounded(lambda k=kind: Pictures(3, 8, 8).read_fitted(tmp_path / k.name), 300)
        assert "cannot be read" in said, (suffix, said)


def test_results_of_others_print_no_escapes_and_make_no_formulas(tmp_path, capsys):
    fuzz.result(tmp_path)
    (tmp_path / "evaluation.json").rename(tmp_path / "0/evaluation.json")
    plain = json.loads((tmp_path / "0/evaluation.json").read_text())
    for number, (name, value) in enumerate(
        {"sampler": "\x1b[31mred[red]$\\frac", "guidance": "a|b<script>\u202e"}.items(), 1
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        text = json.dumps({**plain, "protocol": {**plain["protocol"], name: {"name": value, "steps": number}}})
        (folder / "evaluation.json").write_text(text)
    for number, text in enumerate(('{"values": 3}', "[]", "{" * 9999, '{"version": 2}', '{"a": NaN}', "\xff"), 7):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "evaluation.json").write_bytes(text.encode("latin-1"))
    found = collect(tmp_path)
    assert [row.folder.name for row in found.rows] == ["0", "2", "1"]  # by the names of their samplers
    assert any("6 of 9 jobs ended without" in note for note in found.notes)
    from oboro.cli.benchmark import benchmark

    benchmark(tmp_path)
    written = capsys.readouterr().out + (tmp_path / "benchmark.csv").read_text()
    assert "\x1b[31m" not in written and "\u202e" not in written and "[red]" in written


def test_names_of_files_are_printed_without_escapes(tmp_path):
    name = "a\x1b[2J\u202egnp"
    run = runs.call("sample.py", f"checkpoint='{tmp_path / name}'", cwd=tmp_path)
    assert run.status == 1 and "\x1b" not in run.stderr and "\u202e" not in run.stderr
    assert r"a\x1b[2J\u202egnp" in run.stderr and run.stderr.startswith("error: ") and run.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", ["references", "objects", "brackets", "levels", "bytes"])
def test_option_files_that_are_none_are_named(kind, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.yaml").write_text(YAML[kind])
    run = runs.call("train.py", "--config-dir", str(tmp_path), "model=mine", "--cfg", "job", cwd=tmp_path)
    assert run.status == 1 and run.stderr.startswith(f"error: {tmp_path}/model/mine.yaml cannot be read"), run.stderr
    assert run.stderr.count("\n") == 1 and not (tmp_path / "boom").exists()
