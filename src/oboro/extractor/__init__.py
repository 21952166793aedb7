"""What turns samples into features for metrics: frozen networks, and the numbers themselves."""

from oboro.extractor.clip import CLIP
from oboro.extractor.dinov2 import DINOv2
from oboro.extractor.extractor import Extractor, Samples
from oboro.extractor.fashion import Fashion
from oboro.extractor.in_domain import InDomain
from oboro.extractor.inception import Inception
from oboro.extractor.joint import Joint
from oboro.extractor.raw import Raw
from oboro.extractor.trained_clip import TrainedCLIP

__all__ = ["CLIP", "DINOv2", "Extractor", "Fashion", "InDomain", "Inception", "Joint", "Raw", "Samples", "TrainedCLIP"]
