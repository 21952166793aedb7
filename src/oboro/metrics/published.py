"""Reference statistics that others published as ``.npz`` files."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from oboro.base.errors import UserError
from oboro.extractor.extractor import Extractor, file_digest
from oboro.metrics.bank import Bank
from oboro.metrics.cache import Arrays
from oboro.metrics.reference import Reference
from oboro.metrics.statistics import FeatureStatistics

KEYS = {"features": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}


class Published(Reference):
    """The ``mu`` and ``sigma`` of an ``.npz`` file, as EDM and the ADM evaluator of guided-diffusion publish them.

    ADM's files have the moments of the spatial features too (``mu_s``, ``sigma_s``). Neither holds how many images they
    summarise, so that number is unknown (0). Metrics that need the real images themselves raise ``UserError``, and so
    does a file that is missing, damaged, pickled or of features of another length.
    """

    n = 0

    def __init__(self, path: str | Path, extractor: Extractor):
        self.path = Path(path).expanduser()
        self.identity = {
            "reference_fingerprint": self._digest(),
            "reference_split": self.path.name,
            "reference_samples": self.n,
            "extractor": extractor.name,
            "extractor_digest": extractor.digest,
            "resize": extractor.resize,
            **extractor.described,
        }
        self._statistics = self._read(extractor)

    def _digest(self) -> str:
        if not self.path.is_file():
            raise UserError(f"there is no reference {self.path}; give the path of an .npz file with mu and sigma.")
        if self.path.suffix != ".npz":
            raise UserError(
                f"{self.path} is no .npz file, and pickled statistics can run code when they are read; "
                "save mu and sigma with numpy.savez and give that file."
            )
        return file_digest(self.path)

    def _read(self, extractor: Extractor) -> dict[str, FeatureStatistics]:
        try:
            with np.load(self.path, allow_pickle=False) as file:
                wanted = [key for keys in KEYS.values() for key in keys]
                arrays = {key: torch.from_numpy(np.asarray(file[key])) for key in wanted if key in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{self.path} cannot be read ({error}); get the file again.") from error
        statistics = {}
        for output, (mean, covariance) in KEYS.items():
            if mean in arrays and covariance in arrays:
                if len(arrays[mean]) != extractor.outputs.get(output):
                    raise UserError(
                        f"{self.path} holds statistics of {len(arrays[mean])} features and extractor {extractor.name} "
                        f"has {extractor.outputs.get(output, 'none')}; choose the extractor that made the file."
                    )
                statistics[output] = FeatureStatistics.from_moments(self.n, arrays[mean], arrays[covariance])
        if "features" not in statistics:
            raise UserError(f"{self.path} has no mu and sigma; give a file of reference statistics.")
        return statistics

    @property
    def bank(self) -> Bank:
        raise UserError(f"{self.path.name} holds moments alone, no images; leave reference=... out.")

    def statistics(self, output: str) -> FeatureStatistics:
        if output not in self._statistics:
            raise UserError(f"{self.path.name} has no {' and '.join(KEYS[output])}; leave the metric on {output} out.")
        return self._statistics[output]

    def derived(self, what: str, compute: Callable[[], Arrays]) -> Arrays:
        return compute()
