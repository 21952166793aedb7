"""Frozen parts beside a checkpoint: the digest tells any two states apart, and nothing damaged is read."""

import pytest
import torch
from safetensors.torch import save_file

from oboro.base.errors import UserError
from oboro.restore.archive import write_checkpoint
from oboro.restore.frozen import digest, file_of, join, part_of, remove_unnamed, write, write_whole

STATE = {
    "w": torch.arange(6.0).view(2, 3),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "n": torch.tensor(7),
    "mask": torch.tensor([True, False]),
    "none": torch.empty(0, 4),
}


@pytest.fixture
def stored(tmp_path):
    """A checkpoint that left out the part "text.encoder", and the digest of that."""
    name = digest(STATE)
    write(STATE, name, tmp_path)
    return {"state_dict": {"net.w": torch.ones(2)}, "frozen": {"text.encoder": name}}, tmp_path / "last.ckpt", name


def test_the_digest_sees_every_bit_name_type_and_shape_and_no_order_or_layout():
    others = [
        STATE | {"w": STATE["w"] + torch.tensor([[0, 0, 0], [0, 0, 1e-6]])},
        STATE | {"w": STATE["w"].view(3, 2)},
        STATE | {"n": torch.tensor(7, dtype=torch.int32)},
        STATE | {"half": STATE["half"].half()},
        STATE | {"none": torch.empty(4, 0)},
        {("v" if name == "w" else name): w for name, w in STATE.items()},
        {name: w for name, w in STATE.items() if name != "none"},
    ]
    assert len({digest(state) for state in (STATE, *others)}) == len(others) + 1
    assert digest(dict(reversed(STATE.items()))) == digest(STATE)
    assert digest(STATE | {"w": STATE["w"].T.contiguous().T}) == digest(STATE)


def test_what_was_left_out_is_back_after_joining_bit_for_bit(stored):
    checkpoint, path, _ = stored
    join(checkpoint, path)
    assert "frozen" not in checkpoint
    assert torch.equal(checkpoint["state_dict"]["net.w"], torch.ones(2))
    part = part_of(checkpoint["state_dict"], "text.encoder")
    assert part.keys() == STATE.keys()
    assert all(torch.equal(part[name], w) and part[name].dtype == w.dtype for name, w in STATE.items())
    assert digest(part) == digest(STATE)


def test_weights_that_share_memory_are_written_and_read_as_two(tmp_path):
    w = torch.randn(4)
    tied = {"a": w, "b": w, "c": w[:2]}
    write(tied, digest(tied), tmp_path)
    checkpoint = {"state_dict": {}, "frozen": {"part": digest(tied)}}
    join(checkpoint, tmp_path / "last.ckpt")
    assert torch.equal(checkpoint["state_dict"]["part.b"], w) and torch.equal(checkpoint["state_dict"]["part.c"], w[:2])


def test_a_part_that_is_there_is_not_written_again_and_a_half_written_one_is(stored):
    _, path, name = stored
    file = file_of(path.parent, name)
    before = file.stat().st_mtime_ns, file.stat().st_ino
    write(STATE, name, path.parent)
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == before
    file.unlink()
    file.with_name(f"{file.name}.partial").write_bytes(b"cut off")
    write(STATE, name, path.parent)
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_a_part_goes_when_no_checkpoint_names_it_and_stays_where_that_is_not_known(tmp_path):
    states = [{"w": torch.full((3,), float(i))} for i in range(3)]
    names = [digest(state) for state in states]
    for i, (name, state) in enumerate(zip(names, states, strict=True)):
        write(state, name, tmp_path)
        write_checkpoint({"state_dict": {}, "frozen": {"codec": name}}, tmp_path / f"step-{i}.ckpt")

    def left():
        remove_unnamed(tmp_path)
        return [name for name in names if file_of(tmp_path, name).is_file()]

    assert left() == names
    (tmp_path / "step-0.ckpt").unlink()
    (tmp_path / "step-2.ckpt").write_bytes(b"damaged")
    assert left() == names
    (tmp_path / "step-2.ckpt").unlink()
    assert left() == names[1:2]
    (tmp_path / "step-1.ckpt").unlink()
    assert left() == names[1:2]  # one that is alone may be of a checkpoint that is still to be written


def flip(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "mentions"),
    [
        (lambda file: file.unlink(), ["keeps its text.encoder", "copy the folder frozen", "oboro pack"]),
        (flip, ["damaged", "copy it anew"]),
        (lambda file: file.write_bytes(file.read_bytes()[:-3]), ["damaged", "copy it anew"]),
        (lambda file: save_file({"w": torch.ones(1)}, file), ["damaged", "copy it anew"]),
    ],
    ids=["missing", "a flipped bit", "cut off", "another part's"],
)
def test_what_cannot_be_joined_ends_in_one_line(stored, harm, mentions):
    checkpoint, path, name = stored
    harm(file_of(path.parent, name))
    with pytest.raises(UserError) as error:
        join(checkpoint, path)
    assert all(mention in str(error.value) for mention in mentions)


@pytest.mark.parametrize("name", ["../../secret", "", 7])
def test_a_digest_is_no_path(tmp_path, name):
    with pytest.raises(UserError, match="damaged"):
        join({"state_dict": {}, "frozen": {"part": name}}, tmp_path / "last.ckpt")


def test_a_packed_file_replaces_none(tmp_path):
    write_whole({"state_dict": {}}, tmp_path / "new" / "one.ckpt")
    with pytest.raises(UserError, match="exists"):
        write_whole({"state_dict": {}}, tmp_path / "new" / "one.ckpt")
