"""Checkpoints in shards hold what those of one file do, and what is not whole is refused in one line."""

import json
import shutil
import threading
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch.distributed.checkpoint import HuggingFaceStorageReader
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner

import runs
from injection import disk
from oboro.base.errors import UserError
from oboro.base.tensor_file import TensorFile, write_tensors
from oboro.callbacks import Checkpoints
from oboro.cli.pack import pack
from oboro.restore import lightning_file, shard_writer, sharded
from oboro.restore.archive import read_unchecked, write_checkpoint
from oboro.restore.checkpoint import forget_checkpoint, load_checkpoint
from oboro.restore.finite import numbers
from oboro.restore.lightning_file import CheckpointFile, Way

SHARDED = Way(sharded=True)
LARGE = torch.arange(6000.0).view(3000, 2)


@pytest.fixture(scope="module")
def content(content):
    """With what is large, tied, of a few bits, empty, or no row of anything."""
    odd = {
        "half": LARGE.half(),
        "bits": LARGE > 7,
        "bytes": (LARGE % 200).to(torch.uint8),
        "columns": LARGE.T,
        "none": torch.ones(0, 5),
        "complex": LARGE * 1j,
        "scalar": torch.tensor(3.0),
    }
    state = content["state_dict"] | {"tied.a": LARGE, "tied.b": LARGE, **{f"odd.{k}": v for k, v in odd.items()}}
    adam = {"state": {0: {"exp_avg": LARGE, "step": torch.tensor(3.0)}}, "param_groups": [{"params": [0], "lr": 0.1}]}
    return {**content, "state_dict": state, "optimizer_states": [adam], "global_step": 7}


@pytest.fixture
def path(content, tmp_path):
    save(content, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def save(content, path, way=SHARDED):
    file = CheckpointFile()
    file.save_checkpoint(content, path, way)
    file.wait()
    forget_checkpoint()
    if file.failure is not None:
        raise file.failure


def folders(path):
    return sorted(folder.name for folder in (path.parent / "shards").glob("*"))


def test_a_checkpoint_in_shards_is_that_of_one_file(content, path, tmp_path):
    save(content, tmp_path / "one.ckpt", Way())
    one = load_checkpoint(tmp_path / "one.ckpt")
    forget_checkpoint()
    apart = load_checkpoint(path)
    assert runs.equal(one, apart) and list(one["state_dict"]) == list(apart["state_dict"])
    assert "shards" not in apart and path.stat().st_size < (tmp_path / "one.ckpt").stat().st_size / 2
    pack(str(path), str(tmp_path / "packed" / "one.ckpt"))
    forget_checkpoint()
    assert runs.equal(one, load_checkpoint(tmp_path / "packed" / "one.ckpt"))


def test_the_reader_of_torch_reads_the_shards(content, path):
    (folder,) = (path.parent / "shards").iterdir()
    reader = HuggingFaceStorageReader(str(folder))
    index = reader.read_metadata()
    state = {name: torch.empty(m.size, dtype=m.properties.dtype) for name, m in index.state_dict_metadata.items()}
    planner = DefaultLoadPlanner()
    planner.set_up_planner(state, index, True)
    reader.set_up_storage_reader(index, True)
    reader.read_data(reader.prepare_local_plan(planner.create_local_plan()), planner).wait()
    assert torch.equal(state["state_dict/tied.a"], LARGE) and torch.equal(state["state_dict/odd.half"], LARGE.half())
    assert torch.equal(state["optimizer_states/0/state/0/exp_avg"], LARGE)


def test_the_ways_replace_each_other_and_leave_nothing(content, tmp_path):
    path, best = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    for step, way in enumerate((SHARDED, Way(), SHARDED, SHARDED, Way(True, True))):
        save({**content, "global_step": step}, path, way)
        assert load_checkpoint(path)["global_step"] == step
        assert folders(path) == ([f"{step:08d}"] if way.sharded else [])
    best.hardlink_to(path)
    save({**content, "global_step": 5}, path)
    save({**content, "global_step": 5}, path)  # of a run that has gone back: what the name stands for stays until then
    assert folders(path) == ["00000004", "00000005-1"] and load_checkpoint(best)["global_step"] == 4
    best.unlink()
    save({**content, "global_step": 6}, path)
    assert folders(path) == ["00000006"]


def test_nothing_is_removed_beside_a_checkpoint_that_cannot_be_read(content, path):
    (path.parent / "best.ckpt").write_bytes(b"damaged")
    save({**content, "global_step": 8}, path)
    assert folders(path) == ["00000007", "00000008"]


@pytest.fixture
def gate(monkeypatch):
    """Nothing is written before it is set."""
    event, check = threading.Event(), lightning_file.check_finite
    monkeypatch.setattr(lightning_file, "check_finite", lambda content: (event.wait(60), check(content)))
    yield event
    event.set()


@pytest.mark.parametrize("way", [Way(), SHARDED])
def test_what_is_written_in_the_background_is_of_the_moment_and_the_same_bits(content, gate, tmp_path, way):
    """Also where training has changed everything before the first byte is written."""
    changing = deepcopy(content)
    paths = [tmp_path / folder / "last.ckpt" for folder in ("at_once", "later")]
    for path in paths:
        path.parent.mkdir()
    file = CheckpointFile()
    file.save_checkpoint(changing, paths[1], replace(way, asynchronous=True))
    for _, tensor in numbers(changing, ()):
        tensor.zero_()
    changing["optimizer_states"][0]["param_groups"][0]["lr"] = 9.0
    changing["state_dict"].clear()
    assert not file.wait(0) and not paths[1].exists()
    gate.set()
    assert file.wait() and file.failure is None
    save(content, paths[0], way)
    names = [sorted(p.relative_to(path.parent) for p in path.parent.rglob("*") if p.is_file()) for path in paths]
    assert names[0] == names[1] and len(names[0]) == 1 + way.sharded
    assert paths[0].read_bytes() == paths[1].read_bytes()
    for name in names[0][1:]:  # safetensors writes the keys of a header in any order
        a, b = (TensorFile(path.parent / name) for path in paths)
        assert a.header == b.header and a.seal == b.seal and runs.equal(*({n: f[n] for n in f.shapes} for f in (a, b)))


def test_one_is_written_at_a_time_and_what_fails_is_known_later(content, path, gate):
    file, before = CheckpointFile(), path.read_bytes()
    bad = {**content, "state_dict": {**content["state_dict"], "tied.a": LARGE / 0}}
    file.save_checkpoint({**bad, "global_step": 8}, path, Way(True, True))
    assert file.failure is None and not file.wait(0)
    gate.set()
    file.wait()
    assert "tied.a is not finite at step 8" in str(file.failure)
    assert path.read_bytes() == before and folders(path) == ["00000007"]
    gate.clear()
    file.save_checkpoint({**content, "global_step": 9}, path, Way(True, True))
    threading.Timer(0.1, gate.set).start()
    file.save_checkpoint({**content, "global_step": 10}, path, Way(True, True))  # once that of step 9 is whole
    file.wait()
    forget_checkpoint()
    assert file.failure is None and load_checkpoint(path)["global_step"] == 10 and folders(path) == ["00000010"]


@pytest.mark.slow
def test_a_disk_that_is_full_leaves_the_one_before_and_nothing_else(content, path):
    before = path.read_bytes()
    for way in (SHARDED, Way(True, True)):
        with disk(room=60_000), pytest.raises(OSError):
            save({**content, "global_step": 8}, path, way)
        assert path.read_bytes() == before and folders(path) == ["00000007"]
    assert load_checkpoint(path)["global_step"] == 7


def test_what_fails_after_a_checkpoint_is_named_takes_nothing_back(content, path, monkeypatch):
    """As where another rank is gone before it has heard of it."""

    def gone(folder):
        raise RuntimeError("connection closed by peer")

    monkeypatch.setattr(shard_writer, "remove_unnamed", gone)
    with pytest.raises(RuntimeError):
        save({**content, "global_step": 8}, path)
    forget_checkpoint()
    assert load_checkpoint(path)["global_step"] == 8


def test_shards_are_no_single_file(tmp_path):
    with pytest.raises(UserError, match=r"leave out .*self_contained"):
        Checkpoints(str(tmp_path), 1, sharded=True, self_contained=True)


def first_file(path):
    return next((path.parent / "shards").rglob("*.safetensors"))


def flip(path):
    file = first_file(path)
    content = bytearray(file.read_bytes())
    content[-3] ^= 4
    file.write_bytes(content)


def cut(path):
    file = first_file(path)
    file.write_bytes(file.read_bytes()[:-5])


def of_another(path):
    content = read_unchecked(path)
    content["state_dict"] = {n: w.double() if n == "tied.b" else w for n, w in content["state_dict"].items()}
    write_checkpoint(content, path)


def named(**change):
    def harm(path):
        content = read_unchecked(path)
        write_checkpoint({**content, "shards": {**content["shards"], **change}}, path)

    return harm


def rewritten(change):
    """As one who computes the checksums anew."""

    def harm(path):
        file, content = first_file(path), read_unchecked(path)
        before = TensorFile(file)
        tensors, offsets = {n: before[n].clone() for n in before.shapes}, json.loads(before.header[sharded.OFFSETS])
        change(tensors, offsets)
        seal = write_tensors(file, tensors, {**before.header, sharded.OFFSETS: json.dumps(offsets)})
        write_checkpoint({**content, "shards": {**content["shards"], "files": {file.name: seal}}}, path)

    return harm


A = "state_dict/tied.a"
DAMAGE = {
    "no folder": (lambda path: shutil.rmtree(path.parent / "shards"), ["copy the folder shards", "oboro pack"]),
    "no file": (lambda path: first_file(path).unlink(), ["copy the folder shards", "oboro pack"]),
    "a flipped bit": (flip, ["damaged", "checksum", "use another .ckpt file"]),
    "cut off": (cut, ["damaged", "use another .ckpt file"]),
    "text": (lambda path: first_file(path).write_text("weights"), ["damaged"]),
    "of another checkpoint": (named(files={"00000.safetensors": 7}), ["not of this checkpoint"]),
    "of another form": (of_another, ["tied.b is of another form"]),
    "a path as the folder": (named(folder="../../secret"), ["names no shards"]),
    "a number as the folder": (named(folder=7), ["names no shards"]),
    "a path as a file": (named(files={"../../secret.safetensors": 7}), ["files that are no shards"]),
    "no files": (named(files={}), ["rows of"]),
    "a list of files": (named(files=["00000.safetensors"]), ["names no shards"]),
    "rows missing at the end": (rewritten(lambda t, o: t.update({A: t[A][:-1]})), ["rows of state_dict/tied.a"]),
    "rows missing at the start": (rewritten(lambda t, o: o.update({A: {"saved_offsets": [1, 0]}})), ["rows of"]),
    "rows before the first": (rewritten(lambda t, o: o.update({A: {"saved_offsets": [-1, 0]}})), ["rows of"]),
    "words for numbers": (rewritten(lambda t, o: o.update({A: {"saved_offsets": ["x"]}})), ["damaged"]),
    "no numbers": (rewritten(lambda t, o: o.clear()), ["damaged"]),
    "a tensor missing": (rewritten(lambda t, o: (t.pop(A), o.pop(A))), ["rows of state_dict/tied.a"]),
    "a tensor too many": (
        rewritten(lambda t, o: (t.update({"x": torch.ones(2)}), o.update({"x": {"saved_offsets": [0]}}))),
        ["x belongs to no tensor"],
    ),
    "a single number": (rewritten(lambda t, o: t.update({A: torch.tensor(1.0)})), ["another form"]),
    "other columns": (rewritten(lambda t, o: t.update({A: t[A][:, :1]})), ["another form"]),
    "not finite": (rewritten(lambda t, o: t.update({A: t[A] / 0})), ["has diverged", "tied.a is not finite"]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_not_whole_is_refused_in_one_line(path, name):
    harm, mentions = DAMAGE[name]
    harm(path)
    forget_checkpoint()
    with pytest.raises(UserError) as error:
        load_checkpoint(path)
    assert all(mention in str(error.value) for mention in mentions), error.value


def test_a_tensor_without_values_in_a_file_of_its_own_is_refused(content, tmp_path):
    torch.save({**content, "state_dict": {"w": torch.ones(3, device="meta")}}, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match="rows of state_dict/w are missing"):
        load_checkpoint(tmp_path / "a.ckpt")


def test_a_run_that_replaces_a_checkpoint_while_it_is_read_costs_another_look(content, path, monkeypatch):
    """Its shards go when the next one is there."""
    read, waiting = sharded.read_pieces, [{**content, "global_step": 9}]

    def after_the_next(named, of):
        if waiting:
            CheckpointFile().save_checkpoint(waiting.pop(), path, SHARDED)
        return read(named, of)

    monkeypatch.setattr(sharded, "read_pieces", after_the_next)
    assert load_checkpoint(path)["global_step"] == 9 and folders(path) == ["00000009"]
