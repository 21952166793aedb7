"""Safetensors files that we write are what was written, or refused."""

import pytest
import torch
from safetensors.torch import load_file, save_file

import runs
from oboro.base.tensor_file import CHECKSUMS, Damaged, TensorFile, write_tensors

TENSORS = {
    "w": torch.randn(3, 5),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "n": torch.tensor(3),
    "no": torch.ones(0),
}
HEADER = {"format": "pt", "step": "7"}


def read(path):
    file = TensorFile(path)
    return file.header, {name: file[name] for name in file.shapes}


def test_a_bit_that_is_flipped_anywhere_is_refused_or_changes_nothing(tmp_path):
    """What it can hit without a change is the word that says that there are checksums."""
    path = tmp_path / "a.safetensors"
    write_tensors(path, TENSORS, HEADER)
    assert runs.equal(read(path), (HEADER, TENSORS)) and runs.equal(load_file(path), TENSORS)
    content = path.read_bytes()
    name = content.index(CHECKSUMS.encode())
    for i in range(len(content)):
        for bit in (0, 5):
            path.write_bytes(content[:i] + bytes([content[i] ^ (1 << bit)]) + content[i + 1 :])
            try:
                header, tensors = read(path)
            except Damaged:
                continue
            assert runs.equal(tensors, TENSORS), f"byte {i} of {len(content)}"
            assert header == HEADER or name <= i < name + len(CHECKSUMS)


def test_files_of_others_have_no_checksums_and_are_read(tmp_path):
    save_file(TENSORS, tmp_path / "a.safetensors", HEADER)
    assert runs.equal(read(tmp_path / "a.safetensors"), (HEADER, TENSORS))


@pytest.mark.parametrize("content", [b"", b"text", bytes(100)])
def test_what_is_no_such_file_is_damaged(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(Damaged):
        TensorFile(tmp_path / "a")
