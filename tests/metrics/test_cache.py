import os
import pickle
import warnings

import numpy as np
import pytest

from oboro.metrics.cache import cached_arrays

IDENTITY = {"data": "f", "n": 3}
ARRAYS = {"mean": np.arange(3.0), "root": np.arange(6.0).reshape(3, 2)}


class Compute:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return ARRAYS


def ask(directory, identity=IDENTITY):
    """(was it computed, the arrays)"""
    compute = Compute()
    found = cached_arrays(directory, identity, compute)
    return compute.calls == 1, found


def assert_right(found):
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)


def test_computed_once_then_read(tmp_path):
    assert ask(tmp_path)[0]
    computed, found = ask(tmp_path)
    assert not computed
    assert_right(found)
    assert ask(tmp_path, {"data": "g", "n": 3})[0]


def test_no_damage_is_ever_silently_used(tmp_path):
    """Cut the file at many lengths, flip a bit of every other byte: each time the answer is right."""
    ask(tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    damaged = [whole[:k] for k in range(0, len(whole), 11)]
    damaged += [whole[:k] + bytes([whole[k] ^ 0x02]) + whole[k + 1 :] for k in range(0, len(whole), 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for content in damaged:
            path.write_bytes(content)
            assert_right(ask(tmp_path)[1])
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match="computing it anew"):
        assert ask(tmp_path)[0]
    assert not ask(tmp_path)[0], "the damaged file was replaced"


def test_damage_that_shortens_an_array_is_seen(tmp_path):
    """The bite: numpy stops reading before the checksum when a header says (1000,) in place of (3000,)."""
    long = {"mean": np.arange(3000.0)}
    cached_arrays(tmp_path, IDENTITY, lambda: long)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes().replace(b"(3000,)", b"(1000,)"))
    with np.load(path) as file:
        assert len(file["mean"]) == 1000
    with pytest.warns(UserWarning, match="checksum of mean"):
        assert len(cached_arrays(tmp_path, IDENTITY, lambda: long)["mean"]) == 3000


def test_a_file_of_another_identity_is_not_used(tmp_path):
    ask(tmp_path, {"data": "other", "n": 3})
    (other,) = tmp_path.iterdir()
    ask(tmp_path / "b")
    (name,) = (p.name for p in (tmp_path / "b").iterdir())
    os.replace(other, tmp_path / name)
    with pytest.warns(UserWarning, match="other data"):
        assert ask(tmp_path)[0]


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("form", ["object array", "bare pickle"])
def test_pickled_code_is_never_run(tmp_path, form):
    ask(tmp_path)
    (path,) = tmp_path.glob("*.npz")
    bomb = Bomb(str(tmp_path / "exploded"))
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(bomb))
    else:
        with np.load(path) as file:
            identity = file["identity"]
        np.savez(path, identity=identity, mean=np.array([bomb], dtype=object), root=ARRAYS["root"])
    with pytest.warns(UserWarning, match="computing it anew"):
        assert_right(ask(tmp_path)[1])
    assert not (tmp_path / "exploded").exists()


def test_a_write_that_dies_leaves_the_directory_as_it_was(tmp_path, monkeypatch):
    def die(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_costs_a_warning_only(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="cannot be written"):
        assert_right(ask(tmp_path / "file" / "cache")[1])
