"""An environment in which the wheel of this tree is installed, and nothing else of this tree can be found."""

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKED = ("src", "conf", "pyproject.toml", "README.md", "LICENSE")
BUILD_SDIST = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"


def build(folder: Path) -> Path:
    """The wheel that pip makes of the source distribution. Built from a copy: what a build leaves lies in its tree."""
    tree = folder / "tree"
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in PACKED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tree / name, **({"symlinks": True, "ignore": left_out} if copy is shutil.copytree else {}))
    finished([sys.executable, "-c", BUILD_SDIST, str(folder)], tree)
    (source,) = folder.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(folder)]
    finished([*pip, str(source)], folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def finished(command: list[str], folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class Environment:
    """``run("oboro", "train", ...)``: a command of the environment, in ``folder``."""

    folder: Path

    @classmethod
    def with_wheel(cls, folder: Path, wheel: Path) -> "Environment":
        """The libraries are those of this interpreter, by their path: a link file in it, like that of an editable
        install, is not followed from there."""
        finished([sys.executable, "-m", "venv", "--without-pip", str(folder)], folder)
        python = str(folder / "bin" / "python")
        finished([sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", str(wheel)], folder)
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
        return cls(folder)

    def run(self, *command: str, cwd: Path) -> subprocess.CompletedProcess:
        ours = ("PYTHON", "HYDRA_", "PL_", "PYTEST")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return subprocess.run(
            [str(self.folder / "bin" / command[0]), *command[1:]],
            cwd=cwd,
            env={**kept, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(self.folder / "cache")},
            capture_output=True,
            text=True,
            timeout=280,
        )
