"""Files of arrays that hold something else than they promise."""

import zipfile
from pathlib import Path

import numpy as np


def header(shape: str, dtype: str = "<f8") -> bytes:
    """The start of an ``.npy`` file that announces ``shape``."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def npz_of(path: Path, **members: bytes) -> Path:
    """An archive of raw ``members``."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def archives(folder: Path, name: str) -> dict[Path, str]:
    """``.npz`` files whose array ``name`` cannot be had, and why in words of the message."""
    (folder / "empty.npz").touch()
    (folder / "text.npz").write_text("mu, sigma")
    (folder / "folder.npz").mkdir()
    np.save(folder / "array.npy", np.zeros(3))
    (folder / "array.npy").rename(folder / "renamed.npz")
    np.savez(folder / "objects.npz", **{name: np.array([{}], dtype=object)})
    np.savez(folder / "records.npz", **{name: np.zeros(3, [("a", "<f8")])})
    np.savez(folder / "good.npz", **{name: np.arange(1000.0)})
    whole = (folder / "good.npz").read_bytes()
    (folder / "cut.npz").write_bytes(whole[:400])
    (folder / "flipped.npz").write_bytes(whole[:300] + bytes([whole[300] ^ 255]) + whole[301:])
    call = header("__import__('os').getpid()")
    bomb = header("(10000000000,)", "|u1") + bytes(2**21)
    return {
        folder / "empty.npz": "it is damaged or no archive",
        folder / "text.npz": "it is damaged or no archive",
        folder / "folder.npz": "it is a folder",
        folder / "renamed.npz": "it holds one array of numpy.save",
        folder / "objects.npz": "it holds pickled objects, which can run code when they are read",
        folder / "records.npz": "its array is no plain one",
        folder / "cut.npz": "it is damaged or no archive",
        npz_of(folder / "huge.npz", **{name: header("(10000000000000,)")}): "announces 80,000,000,000,000 bytes and 0",
        npz_of(folder / "bomb.npz", **{name: bomb}): "announces 10,000,000,000 bytes and 2,097,152 follow",
        npz_of(folder / "negative.npz", **{name: header("(-1,)")}): "its array is no plain one",
        npz_of(folder / "code.npz", **{name: call}): "the header of its array is damaged",
        npz_of(folder / "raw.npz", **{name: b"nothing"}): "the header of its array is damaged",
        npz_of(folder / "long.npz", **{name: header("(" + "1," * 9000 + ")")}): "the header of its array is damaged",
    }
