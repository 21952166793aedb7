"""A file that is replaced is the old one or the new one, whenever and however writing ends."""

import os
import resource
import signal

import pytest
import torch

from oboro.base import whole_file
from oboro.base.whole_file import clear_partial, link, replacing
from oboro.restore.archive import write_checkpoint
from oboro.restore.frozen import digest, write

OLD, NEW = ({"w": torch.full((300_000,), value)} for value in (1.0, 2.0))


@pytest.fixture
def file(tmp_path):
    write_checkpoint(OLD, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def value(path):
    return torch.load(path, weights_only=True)["w"].unique().tolist()


def killed_after(calls, act):
    """``act`` in a process that dies at its ``calls``-th call of the operating system; whether it did."""
    child = os.fork()
    if not child:
        left = calls

        def counted(f):
            def called(*args, **kwargs):
                nonlocal left
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return f(*args, **kwargs)

            return called

        whole_file._Noting.write = counted(whole_file._Noting.write)
        whole_file.os.fsync, whole_file.os.replace = counted(os.fsync), counted(os.replace)
        act()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_kill_at_any_moment_leaves_the_old_file_or_the_new_one(file):
    found, calls = [], 0
    while killed_after(calls, lambda: write_checkpoint(NEW, file)):
        found.append(value(file))
        clear_partial(file.parent)
        assert [path.name for path in file.parent.iterdir()] == [file.name]
        calls += 1
    assert found == [[1.0]] * (calls - 1) + [[2.0]] and calls >= 4  # pieces, the file on disk, renamed, the folder
    assert value(file) == [2.0]


def on_a_full_disk(act):
    """The error of ``act`` where no file can be larger than 100 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError) as error:
            act()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return error.value


def test_a_full_disk_is_an_error_of_the_system_whoever_writes_and_leaves_the_old_file(file):
    """torch and safetensors have errors of their own, which do not say what is wrong."""
    folder = file.parent
    for act in (lambda: write_checkpoint(NEW, file), lambda: write(NEW, digest(NEW), folder)):
        assert on_a_full_disk(act).strerror == "File too large"
    assert value(file) == [1.0]
    assert [path.name for path in folder.rglob("*") if path.is_file()] == [file.name]


def test_what_fails_otherwise_leaves_the_old_file(file):
    with pytest.raises(ZeroDivisionError), replacing(file) as new:
        new.write(b"half")
        1 / 0  # noqa: B018
    assert value(file) == [1.0] and len(list(file.parent.iterdir())) == 1


def test_two_names_of_one_file_are_no_second_copy_and_part_when_one_is_replaced(file):
    best = file.with_name("best.ckpt")
    for _ in range(2):  # the second time it is the same file already
        link(file, best)
        assert best.stat().st_ino == file.stat().st_ino and len(list(file.parent.iterdir())) == 2
    write_checkpoint(NEW, file)
    assert value(best) == [1.0] and value(file) == [2.0]
    link(file, best)
    assert value(best) == [2.0]
