"""What a configuration that came with a file may build."""

import pytest

from oboro.base.errors import UserError
from oboro.restore.trust import check_storable, check_targets, trusting

PACKAGE = """
import os, subprocess
from oboro.sampler import Euler, Sampler
from torch import nn

class Net(nn.Module):
    pass

class Steps(Euler):
    pass

class Runs(subprocess.Popen):  # a class, defined here, that starts a program when it is built
    pass

def build():
    open("proof", "w").close()
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """``stranger``, a package that can be imported and leaves ``proof`` when it is."""
    (tmp_path / "stranger").mkdir()
    (tmp_path / "stranger" / "__init__.py").write_text('open("imported", "w").close()' + PACKAGE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_class_of_a_package_is_built_with_trust_and_nothing_is_imported_without(package):
    with pytest.raises(UserError, match=r"file wants to call stranger.Net, .* add trust=\[stranger\]\.$"):
        check_targets(["oboro.sampler.Heun", "stranger.Net"], "file")
    with trusting(["other"]), pytest.raises(UserError, match=r"add trust=\[other,stranger\]\.$"):
        check_targets(["stranger.Net"], "file")
    assert not (package / "imported").exists()
    with trusting("stranger"):
        check_targets(["oboro.sampler.Heun", "stranger.Net", "stranger.Steps"], "file")
    assert (package / "imported").exists()
    with pytest.raises(UserError, match="trust="):  # it ends with the block
        check_targets(["stranger.Net"], "file")


@pytest.mark.parametrize(
    "target", ["stranger.build", "stranger.Runs", "stranger.os.system", "stranger.subprocess.Popen", "stranger.Euler"]
)
def test_trust_is_in_parts_that_the_package_defines(package, target):
    """Not in its functions, not in what it imports, and not in classes that are no part of a run."""
    with trusting(["stranger"]), pytest.raises(UserError, match=r"is no class|is not defined in stranger as a class"):
        check_targets([target], "file")
    with pytest.raises(UserError, match=r"is no class|is not defined in stranger as a class"):
        check_storable([target])
    assert not (package / "proof").exists()


@pytest.mark.parametrize("name", ["os", "builtins", "subprocess", "torch", "torch.hub", "numpy", "oboro", "x y", 7])
def test_libraries_are_not_trusted_as_a_whole(name):
    with pytest.raises(UserError, match="package"), trusting([name]):
        pass


@pytest.mark.parametrize("target", ["os.system", "subprocess.Popen", "torch.hub.load", "exec", 3, ["stranger.Net"]])
def test_trust_is_not_offered_for_what_it_cannot_be_had_for(target):
    with trusting(["stranger"]), pytest.raises(UserError, match="do not use this file"):
        check_targets([target], "file")


def test_a_prefix_is_no_package(package):
    with trusting(["strange"]), pytest.raises(UserError, match=r"trust=\[strange,stranger\]"):
        check_targets(["stranger.Net"], "file")


def test_a_package_that_is_not_here_is_named():
    with trusting(["nowhere"]), pytest.raises(UserError, match=r"nowhere.Net cannot be imported .* install"):
        check_targets(["nowhere.Net"], "file")
