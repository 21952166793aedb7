"""Sweeps of a script that a user could have written, as typed into a shell; without torch, which takes seconds."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = '''
import fcntl, json, os, signal, subprocess, sys, time
from pathlib import Path
import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from oboro import sweep

def hold(folder):
    """Wait for ever, together with a child that keeps a file locked while it lives."""
    held = (folder / "held").open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
    held.write(str(os.getpid()))
    held.flush()
    subprocess.Popen(["sleep", "1000"], pass_fds=[held.fileno()])
    print("holding")
    if Path("ready").exists():
        Path("ready").write_text("a pipe: whoever reads it waits for this")
    time.sleep(1000)

@hydra.main(version_base="1.3", config_path="conf", config_name="tiny")
def main(config):
    hydra_config = HydraConfig.get()
    folder = Path(hydra_config.runtime.output_dir)
    act = "fine" if Path("mended").exists() else config.act
    print("act", act)
    if act == "raise":
        raise ValueError("no such luck")
    if act == "exit":
        sys.exit(3)
    if act == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "hold":
        hold(folder)
    seen = {"config": OmegaConf.to_container(config), "argv": sys.argv[1:], "environment": dict(os.environ)}
    seen["hydra"] = [str(hydra_config.verbose), hydra_config.job.name, hydra_config.job.num]
    seen["module"] = __spec__ and __spec__.name
    (folder / "seen.json").write_text(json.dumps(seen))
    values = {"loss": (config.x - 0.5) ** 2, "other": 7.0}
    (folder / "result.json").write_text(json.dumps({"values": values, "objective": "loss"}))

if __name__ == "__main__":
    sweep.run(main)
'''

CONFIG = f"""
defaults:
  - override hydra/launcher: processes
  - _self_
act: fine
x: 0.0
value: null
hydra:
  searchpath: [{ROOT / "conf"}]
  run: {{dir: alone}}
  sweep: {{dir: sweep, subdir: '${{hydra.job.num}}'}}
"""


@dataclass(frozen=True)
class Finished:
    """What a shell sees, and what lies in the folder of the sweep."""

    status: int
    stdout: str
    stderr: str
    folder: Path

    @property
    def account(self) -> dict:
        return json.loads((self.folder / "jobs.json").read_text())

    @property
    def jobs(self) -> list[dict]:
        return self.account["jobs"]

    @property
    def statuses(self) -> list[str]:
        return [job["status"] for job in self.jobs]

    @property
    def started(self) -> list[int]:
        """The numbers of the jobs that started, in order; the line of one that ends has its seconds in brackets."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("[") and not line.endswith(")")]
        return [int(line[1 : line.index("]")]) for line in lines]

    def seen(self, path: str) -> dict:
        """What the job in the folder ``path`` saw."""
        return json.loads((self.folder / path / "seen.json").read_text())


class Place:
    """A folder with the script."""

    def __init__(self, folder: Path):
        self.folder, self.program = folder, ["tiny.py"]
        (folder / "conf").mkdir()
        (folder / "conf" / "tiny.yaml").write_text(CONFIG)
        (folder / "tiny.py").write_text(SCRIPT)

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HYDRA_", "PL_", "CUDA_", "PYTHONUNBUFFERED"))}
        return subprocess.Popen(
            [sys.executable, *self.program, *arguments],
            cwd=self.folder,
            env={**kept, "COLUMNS": "120", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, folder: str = "sweep", **variables: str) -> Finished:
        """``python <program> <arguments>`` with more environment variables; ``folder`` is where the sweep goes."""
        return self.finish(self.start(*arguments, **variables), folder)

    def finish(self, process: subprocess.Popen, folder: str = "sweep") -> Finished:
        stdout, stderr = process.communicate(timeout=120)
        return Finished(process.returncode, stdout, stderr, self.folder / folder)

    def start_and_hold(self, *arguments: str) -> subprocess.Popen:
        """``start``, and wait until a job with ``act=hold`` holds."""
        os.mkfifo(self.folder / "ready")
        process = self.start(*arguments)
        (self.folder / "ready").read_text()
        return process

    def mend(self) -> None:
        """From now on every job is fine."""
        (self.folder / "mended").touch()


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module")
def shared_place(tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))
