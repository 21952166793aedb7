"""The console command, as its script calls it."""

import contextlib
import io
import sys
from importlib import import_module

import pytest

import runs
from oboro import __version__
from oboro.cli.start import COMMANDS, main
from oboro.restore.trust import trusted_words


def typed(monkeypatch, *arguments: str) -> tuple[object, str]:
    """Exit status or message, and stdout, of ``oboro <arguments>``."""
    monkeypatch.setattr(sys, "argv", ["oboro", *arguments])
    out, status = io.StringIO(), None
    with contextlib.redirect_stdout(out):
        try:
            main()
        except SystemExit as end:
            status = end.code
    return status, out.getvalue()


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_has_a_line_for_each_command(monkeypatch, arguments):
    status, out = typed(monkeypatch, *arguments)
    lines = [line.split() for line in out.splitlines() if line.startswith("  ")]
    assert status is None and [line[0] for line in lines] == list(COMMANDS) and all(len(line) > 3 for line in lines)


def test_the_version(monkeypatch):
    assert typed(monkeypatch, "--version") == (None, f"oboro {__version__}\n")


def test_an_unknown_command_ends_in_one_line(monkeypatch):
    message = "error: there is no command trian; `oboro --help` lists them. Did you mean train?"
    assert typed(monkeypatch, "trian") == (message, "")


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if not command.hydra])
def test_a_plain_command_explains_itself_by_its_name(monkeypatch, name):
    status, out = typed(monkeypatch, name, "--help")
    assert not status and out.startswith(f"usage: oboro {name} ")


def test_a_plain_command_ends_a_mistake_in_one_line(monkeypatch, tmp_path):
    status, _ = typed(monkeypatch, "adapter", "export", str(tmp_path / "a.ckpt"), "b", "trust=[mine]")
    assert status.startswith("error: there is no checkpoint") and "\n" not in status
    status, _ = typed(monkeypatch, "adapter", "export", str(tmp_path / "a.ckpt"), "b", "trust=[os]")
    assert status.startswith("error: trust=os ")


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if command.hydra])
def test_a_command_of_hydra_is_its_script(name, tmp_path):
    """The same configuration, from the same folder; and messages name what was typed."""
    assert import_module(COMMANDS[name].module)
    by_command, by_script = (
        runs.call(what, *first, "--cfg", "job", "--package", "_global_", cwd=tmp_path)
        for what, first in (("oboro", [name]), (f"{name}.py", []))
    )
    assert runs.succeeded(by_command).stdout == runs.succeeded(by_script).stdout != ""
    wrong = runs.call("oboro", name, "nokey=1", cwd=tmp_path)
    assert wrong.status == 1 and f"`oboro {name} --cfg job`" in wrong.stderr and wrong.stderr.count("\n") == 1
    flag = runs.call("oboro", name, "--nosuch", cwd=tmp_path)
    assert flag.stderr == f"error: unrecognized arguments: --nosuch; `oboro {name} --hydra-help` lists the flags.\n"


@pytest.fixture
def own(tmp_path):
    """A folder of options of one's own."""
    (tmp_path / "own/sampler").mkdir(parents=True)
    (tmp_path / "own/sampler/twice.yaml").write_text("defaults: [heun]\nsteps: 7\n")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("flag", [["--config-dir", "own"], ["--config-dir=own"], ["-cd", "own"]])
def test_a_folder_of_ones_own_adds_options(own, flag):
    run = runs.call("oboro", "train", *flag, "sampler=twice", "--cfg", "job", "--package", "sampler", cwd=own)
    assert "oboro.sampler.Heun" in runs.succeeded(run).stdout and "steps: 7" in run.stdout
    wrong = runs.call("oboro", "train", *flag, "sampler=twise", cwd=own)
    assert "|heun|" in wrong.stderr and wrong.stderr.endswith("Did you mean sampler=twice?\n")


def test_a_folder_that_is_missing_is_named(tmp_path):
    run = runs.call("oboro", "train", "--config-dir", "nowhere", cwd=tmp_path)
    assert run.status == 1 and run.stderr.startswith("error: ") and f"{tmp_path / 'nowhere'}" in run.stderr
    assert run.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_checkpoint_alone_imports_nothing_from_the_folder_it_lies_in(checkpoint, tmp_path):
    """``trust`` has it search there, too."""
    (tmp_path / "stray.py").write_text("open('stray was imported', 'w').close()")
    here = [
        f"checkpoint={checkpoint}",
        "accelerator=cpu",
        "n=1",
        "sampler.steps=1",
        "hydra.run.dir=out",
        "overwrite=true",
    ]
    wanted = [*here, "sampler._target_=stray.Steps"]
    for arguments, found in ((here, False), (wanted, False), ([*wanted, "trust=[other]"], True)):
        runs.call("oboro", "sample", *arguments, cwd=tmp_path)
        assert (tmp_path / "stray was imported").exists() is found


@pytest.mark.parametrize(("value", "packages"), [("[a,b.c]", ["a", "b.c"]), ("a", ["a"]), ("[]", []), ("null", [])])
def test_packages_are_read_before_hydra_composes(value, packages):
    assert trusted_words(["x=1", f"trust={value}", "-m"]) == (["x=1", "-m"], packages)


def test_a_class_that_no_checkpoint_could_build_is_named_before_training(tmp_path):
    """A function would train, and be refused by the one who reads the checkpoint."""
    run = runs.call("train.py", *runs.toy("sampler._target_=runs.composed"), cwd=tmp_path)
    assert run.status == 1 and run.stderr == (
        "error: runs.composed is no class; give the name of one that is defined in its package.\n"
    )
