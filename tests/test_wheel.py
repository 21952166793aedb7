"""What ``pip install oboro`` brings, in an environment that knows no clone and from a folder of its own."""

import json
import re
import shlex
import zipfile
from pathlib import Path

import pytest
import torch

import installed
import runs

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = (ROOT / "docs" / "own_code.md").read_text()
DATA = {".yaml", ".py", ".typed", ".gz", ".safetensors"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return installed.build(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> installed.Environment:
    return installed.Environment.with_wheel(tmp_path_factory.mktemp("environment"), wheel)


def test_the_wheel_holds_the_package_and_its_configuration_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as file:
        held = {name for name in file.namelist() if ".dist-info/" not in name}
    source = {p.relative_to(ROOT / "src").as_posix() for p in (ROOT / "src").rglob("*") if p.suffix in DATA}
    options = {f"oboro/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / "conf").rglob("*.yaml")}
    licences = {f"oboro/data/assets/{p.name}" for p in (ROOT / "src/oboro/data/assets").iterdir()}
    assert held == source | options | licences
    assert "oboro/py.typed" in held and len(options) > 200


def test_nothing_of_this_tree_is_found(environment, tmp_path):
    """So that the tests below are about the wheel."""
    where = "import oboro, hydra_plugins.oboro as plugin; print(oboro.__file__, plugin.__file__)"
    found = environment.run("python", "-c", where, cwd=tmp_path).stdout.split()
    assert len(found) == 2 and all(Path(path).is_relative_to(environment.folder) for path in found)


def files(text: str) -> dict[str, str]:
    """The files of the template by their paths, which their first lines name."""
    return dict(re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", text, re.M | re.S))


def commands(text: str) -> list[list[str]]:
    lines = "".join(re.findall(r"^```bash\n(.*?)^```$", text, re.M | re.S)).splitlines()
    return [shlex.split(line) for line in lines]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_template_trains_resumes_samples_and_is_measured(environment, tmp_path):
    for path, content in files(TEMPLATE).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    for command in commands(TEMPLATE):
        done = environment.run(*command, cwd=tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if "trust=[mine]" in command:
            refused = environment.run(*[word for word in command if not word.startswith("trust=")], cwd=tmp_path)
            assert refused.returncode == 1 and refused.stderr.count("\n") == 1
            assert refused.stderr.endswith("if you trust its author, add trust=[mine].\n"), refused.stderr
    steps = [torch.load(tmp_path / run / "checkpoints/last.ckpt")["global_step"] for run in ("first", "second")]
    assert steps == [10, 20]
    assert len(list(tmp_path.glob("outputs/*/*/images/*.png"))) == 10
    (evaluation,) = tmp_path.glob("outputs/*/*/evaluation.json")
    protocol = json.loads(evaluation.read_text())["protocol"]
    sampler = {"name": "Euler", "steps": 10, "grid": {"name": "Uniform"}}
    assert protocol["sampler"] == sampler and protocol["reference_samples"] == 900


@pytest.mark.slow
def test_ranks_and_jobs_are_started_by_the_command(environment, tmp_path):
    """Lightning starts the second rank of each job, and the sweep the jobs, from what the console script left; a file
    in the folder where it was typed stands for no library in any of them."""
    (tmp_path / "omegaconf.py").write_text("open('stood for a library', 'w').close()")
    two = ["seed=1,2", "trainer.devices=2", "trainer.strategy=ddp", runs.NO_EVALUATION]
    done = environment.run("oboro", "train", "-m", *runs.toy(*two), "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for job in ("0", "1"):
        assert (tmp_path / "sweep" / job / "train_ddp_process_1.log").exists()
        assert torch.load(tmp_path / "sweep" / job / "checkpoints/last.ckpt")["global_step"] == 2
    assert not list(tmp_path.rglob("stood for a library"))
    account = json.loads((tmp_path / "sweep/jobs.json").read_text())
    assert [job["status"] for job in account["jobs"]] == ["done", "done"]
