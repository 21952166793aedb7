"""What is not normal about a sample. One class for each option in conf/detector."""

from oboro.detector.autoencoding import Autoencoding
from oboro.detector.detector import Detector, Pictures
from oboro.detector.inspection import Cost, Inspection
from oboro.detector.likelihood import Likelihood
from oboro.detector.noising import DenoisingError, PartialDiffusion
from oboro.detector.patch_core import PatchCore
from oboro.detector.pca import PCA

__all__ = [
    "PCA",
    "Autoencoding",
    "Cost",
    "DenoisingError",
    "Detector",
    "Inspection",
    "Likelihood",
    "PartialDiffusion",
    "PatchCore",
    "Pictures",
]
