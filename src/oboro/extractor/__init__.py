"""Frozen networks that turn images into features: what metrics see."""

from oboro.extractor.clip import CLIP
from oboro.extractor.dinov2 import DINOv2
from oboro.extractor.extractor import Extractor, Images
from oboro.extractor.fashion import Fashion
from oboro.extractor.inception import Inception
from oboro.extractor.joint import Joint
from oboro.extractor.trained_clip import TrainedCLIP

__all__ = ["CLIP", "DINOv2", "Extractor", "Fashion", "Images", "Inception", "Joint", "TrainedCLIP"]
