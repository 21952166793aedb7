"""Reference statistics that others published as ``.npz`` files."""

from collections.abc import Callable
from pathlib import Path

import torch

from oboro.base.arrays import FileArray, arrays_in
from oboro.base.errors import UserError
from oboro.extractor.extractor import Extractor, file_digest
from oboro.metrics.bank import Bank
from oboro.metrics.cache import Arrays
from oboro.metrics.reference import Reference
from oboro.metrics.statistics import FeatureStatistics

REMEDY = "save mu (d,) and sigma (d, d) with numpy.savez, or get the file again"
ASYMMETRY = 1e-5  # of the largest entry: what rounding of float32 leaves
KEYS = {"features": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}


class Published(Reference):
    """The ``mu`` and ``sigma`` of an ``.npz`` file, as EDM and the ADM evaluator of guided-diffusion publish them.

    ADM's files have the moments of the spatial features too (``mu_s``, ``sigma_s``). Neither holds how many images they
    summarise, so that number is unknown (0). Metrics that need the real images themselves raise ``UserError``, and so
    does a file that is missing, damaged, pickled, of features of another length, or whose numbers are not finite, not
    symmetric or of no covariance.
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
        arrays = arrays_in(self.path, [key for keys in KEYS.values() for key in keys], REMEDY)
        statistics = {
            output: self._moments(output, arrays[mean], arrays[covariance], extractor)
            for output, (mean, covariance) in KEYS.items()
            if mean in arrays and covariance in arrays
        }
        if "features" not in statistics:
            raise UserError(f"{self.path} has no mu and sigma; give a file of reference statistics.")
        return statistics

    def _moments(self, output: str, mean: FileArray, covariance: FileArray, extractor: Extractor) -> FeatureStatistics:
        """Shapes are held against the extractor before anything is read."""
        mu, sigma = KEYS[output]
        for name, array, axes in ((mu, mean, 1), (sigma, covariance, 2)):
            if array.dtype.kind not in "fiu":
                raise self._unfit(f"{name} is {array.dtype}, no real numbers")
            if len(array.shape) != axes or len(set(array.shape)) > 1 or array.shape[0] != mean.shape[0]:
                raise self._unfit(f"{mu} and {sigma} have the shapes {mean.shape} and {covariance.shape}")
        (features,) = mean.shape
        if features != extractor.outputs.get(output):
            raise UserError(
                f"{self.path} holds statistics of {features} features and extractor {extractor.name} "
                f"has {extractor.outputs.get(output, 'none')}; choose the extractor that made the file."
            )
        vector, matrix = (torch.from_numpy(array.read().astype("float64")) for array in (mean, covariance))
        if (matrix - matrix.T).abs().max() > ASYMMETRY * matrix.abs().max():
            raise self._unfit(f"{sigma} is not symmetric")
        try:
            return FeatureStatistics.from_moments(self.n, vector, matrix)
        except ValueError as error:
            raise self._unfit(f"{mu} and {sigma}: {error}") from error

    def _unfit(self, reason: str) -> UserError:
        return UserError(f"{self.path} holds no mean and covariance ({reason}); {REMEDY}.")

    @property
    def bank(self) -> Bank:
        raise UserError(f"{self.path.name} holds moments alone, no images; leave reference=... out.")

    def statistics(self, output: str) -> FeatureStatistics:
        if output not in self._statistics:
            raise UserError(f"{self.path.name} has no {' and '.join(KEYS[output])}; leave the metric on {output} out.")
        return self._statistics[output]

    def derived(self, what: str, compute: Callable[[], Arrays]) -> Arrays:
        return compute()
