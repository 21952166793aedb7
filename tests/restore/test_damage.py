"""Damaged checkpoints are refused in one line, and whole ones are read once."""

import zipfile
from copy import deepcopy

import pytest
import torch

import runs
from oboro.base.errors import UserError
from oboro.restore import archive
from oboro.restore.archive import check_archive, write_checkpoint
from oboro.restore.checkpoint import forget_checkpoint, load_checkpoint
from oboro.restore.finite import not_finite
from oboro.restore.lightning_file import CheckpointFile
from oboro.restore.rebuild import build_task


@pytest.fixture(scope="module")
def content(content):
    return {**content, "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}]}


@pytest.fixture
def path(content, tmp_path):
    write_checkpoint(content, tmp_path / "last.ckpt")
    forget_checkpoint()
    return tmp_path / "last.ckpt"


def read(path):
    state = path.stat()
    check_archive.__wrapped__(path, state.st_mtime_ns, state.st_size, path)
    try:
        return torch.load(path, weights_only=True)
    except Exception as error:  # as load_checkpoint does
        raise UserError("damaged") from error


@pytest.mark.slow
def test_a_bit_that_is_flipped_anywhere_is_refused_or_changes_nothing(tmp_path):
    """What it can hit without a change are dates and padding of the archive."""
    path, whole = tmp_path / "last.ckpt", {"w": torch.randn(40), "n": 7, "s": "text", "half": torch.ones(3).half()}
    write_checkpoint(whole, path)
    content, refused = path.read_bytes(), 0
    folder = (
        content.rindex(b"PK\x01\x02", 0, content.rindex(b"archive/data/1")) + 38
    )  # its mark, in the list at the end
    for i, bit in [*((i, i % 8) for i in range(0, len(content), 3)), (folder, 4)]:
        path.write_bytes(content[:i] + bytes([content[i] ^ (1 << bit)]) + content[i + 1 :])
        try:
            assert runs.equal(read(path), whole), f"byte {i} of {len(content)}"
        except UserError:
            refused += 1
    assert refused > len(content) / 9


def flipped(path, share=0.5):
    with path.open("r+b") as file:
        file.seek(int(path.stat().st_size * share))
        (byte,) = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 16]))


def truncated(path, share=0.7):
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * share))


def packed_otherwise(path, **how):
    with zipfile.ZipFile(path) as before:
        records = {record.filename: before.read(record) for record in before.infolist()}
    with zipfile.ZipFile(path, "w", **how) as after:
        for name, content in records.items():
            after.writestr(name, content)


def foreign(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "a")


DAMAGE = {
    "a flipped bit": (flipped, "damaged"),
    "cut off": (truncated, "damaged"),
    "cut off by a byte": (lambda path: truncated(path, 1 - 1e-7), "damaged"),
    "cut off at once": (lambda path: truncated(path, 1e-4), "damaged"),
    "nothing": (lambda path: path.write_bytes(b""), "is empty"),
    "zeros": (lambda path: path.write_bytes(bytes(path.stat().st_size)), "damaged"),
    "another archive": (foreign, "no checkpoint at all"),
    "compressed": (lambda path: packed_otherwise(path, compression=zipfile.ZIP_DEFLATED), "is compressed"),
    "text": (lambda path: path.write_text("weights"), "no checkpoint at all"),
    "pickle alone": (lambda path: torch.save({}, path, _use_new_zipfile_serialization=False), "no checkpoint at all"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_ends_in_one_line_also_where_the_file_was_whole_before(path, name):
    load_checkpoint(path)
    harm, mentions = DAMAGE[name]
    harm(path)
    with pytest.raises(UserError) as error:
        load_checkpoint(path)
    assert mentions in str(error.value) and ("use another .ckpt file" in str(error.value) or name == "compressed")


def test_checksums_are_looked_at_once(path, tmp_path):
    """Also where another file was read in between, as a codec's is."""
    other = tmp_path / "other.ckpt"
    other.write_bytes(path.read_bytes())
    archive.check_archive.cache_clear()
    for file in (path, other, path, other):
        load_checkpoint(file)
    looks = archive.check_archive.cache_info()
    assert (looks.misses, looks.hits) == (2, 2)


PLACES = {
    "a weight": ("state_dict", "denoiser.network.first.weight", "denoiser.network.first.weight is"),
    "an average": ("ema", "averages", "std005", "network.first.weight", "first.weight averaged as std005"),
    "an optimizer": ("optimizer_states", 0, "state", 0, "exp_avg", "the optimizer's exp_avg of weight 0"),
}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_neither_read_nor_written(content, tmp_path, name, number):
    *place, last, words = PLACES[name]
    changed = deepcopy(dict(content))
    node = changed
    for key in place:
        node = node[key]
    node[last].view(-1)[-1] = number
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"the one before")
    file = CheckpointFile()
    file.save_checkpoint(changed, path)
    assert (
        isinstance(file.failure, UserError)
        and words in f"{file.failure} is"
        and "no checkpoint of it" in str(file.failure)
    )
    assert path.read_bytes() == b"the one before"
    torch.save(changed, path)
    with pytest.raises(UserError, match="has diverged"):
        load_checkpoint(path)
    file.save_checkpoint(content, path)
    assert file.failure is None and load_checkpoint(path)["global_step"] == 0


def test_masks_may_be_infinite():
    state = {"net.w": torch.ones(2), "net.mask": torch.tensor([0.0, -torch.inf])}
    ema = {"averages": {"a": {"w": torch.ones(2)}}}
    assert not_finite({"state_dict": state, "ema": ema}) is None
    assert not_finite({"state_dict": state | {"net.mask": state["net.mask"] * 0}, "ema": ema}) == "net.mask"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_the_names_of_a_wrapper_are_told_from_another_model(content, path, prefix):
    state = {f"{prefix}{name}": weight for name, weight in content["state_dict"].items()}
    torch.save({**content, "state_dict": state}, path)
    with pytest.raises(UserError, match=f"begin with {prefix}.*of the model itself"):
        build_task(load_checkpoint(path))


def test_weights_of_another_shape_than_the_configuration_are_no_option_of_the_user(content, path):
    changed = deepcopy(content["config"])
    changed["task"]["denoiser"]["network"]["channels"] = 16
    torch.save({**content, "config": changed}, path)
    with pytest.raises(UserError, match=r"than its own configuration: .* in the file and .*use the file that train"):
        build_task(load_checkpoint(path))
