"""Arrays of other programs are read as they are, or refused in one line that advises nothing dangerous."""

import numpy as np
import pytest

from hostile import archives, header, npz_of
from oboro.base import arrays
from oboro.base.arrays import array_in, arrays_in
from oboro.base.errors import UserError


def refusal(read) -> str:
    with pytest.raises(UserError) as caught:
        read()
    return str(caught.value)


def test_what_numpy_wrote_is_read_back_whatever_its_type_order_and_layout(tmp_path):
    for i, dtype in enumerate(("<f4", ">f8", ">i2", "|u1", "<c8", "?")):
        array = np.arange(12).reshape(3, 4).astype(dtype)
        for j, stored in enumerate((array, np.asfortranarray(array), array[:, :0], array[0, 0])):
            for write in (np.savez, np.savez_compressed):
                path = tmp_path / f"{i}{j}{write.__name__}.npz"
                write(path, x=stored, other=0)
                found = arrays_in(path, ["x", "absent"], "")
                assert list(found) == ["x"] and found["x"].shape == stored.shape
                read = found["x"].read()
                assert np.array_equal(read, stored) and read.dtype == np.dtype(dtype).newbyteorder("=")
            np.save(tmp_path / "one.npy", stored)
            assert np.array_equal(array_in(tmp_path / "one.npy", "").read(), stored)


def test_archives_that_hold_no_array_end_in_one_line(tmp_path):
    table = archives(tmp_path, "x")
    wrong = [
        (path.name, message)
        for path, reason in table.items()
        if (message := refusal(lambda path=path: arrays_in(path, ["x"], "write it anew")))
        != f"{path} cannot be read ({message.partition('(')[2].rpartition(')')[0]}); write it anew."
        or reason not in message
        or "allow_pickle" in message
    ]
    assert wrong == []
    assert "it is damaged" in refusal(lambda: arrays_in(tmp_path / "flipped.npz", ["x"], "")["x"].read())


def test_single_arrays_that_are_none_end_in_one_line(tmp_path):
    for name, content in {
        "huge": header("(10000000000000,)"),
        "short": header("(4,)") + bytes(31),
        "empty": b"",
        "text": b"1 2 3",
    }.items():
        (tmp_path / f"{name}.npy").write_bytes(content)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    np.savez(tmp_path / "x.npz", x=0)
    (tmp_path / "x.npz").rename(tmp_path / "archive.npy")
    table = {
        "huge": "its header announces 80,000,000,000,000 bytes and 0 follow",
        "short": "its header announces 32 bytes and 31 follow",
        "empty": "the header of its array is damaged",
        "text": "the header of its array is damaged",
        "objects": "it holds pickled objects, which can run code when they are read",
        "archive": "it holds an archive of arrays",
        "absent": "there is no such file",
    }
    found = {name: refusal(lambda name=name: array_in(tmp_path / f"{name}.npy", "save it anew")) for name in table}
    assert found == {n: f"{tmp_path / n}.npy cannot be read ({reason}); save it anew." for n, reason in table.items()}


def test_an_archive_that_unpacks_to_far_more_than_it_is_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "LARGE", 2**16)
    path = npz_of(tmp_path / "zeros.npz", x=header("(2097152,)", "|u1") + bytes(2**21))
    assert "to 2,097,152" in refusal(lambda: arrays_in(path, ["x"], ""))
