"""Images for training: one class per kind of source, decoded once into a memory-mapped array, read in a fixed order."""

from oboro.data.cifar10 import CIFAR10
from oboro.data.dreambooth import DreamBooth
from oboro.data.emoji import Emoji
from oboro.data.fashion_captions import FashionCaptions
from oboro.data.fashion_mnist import FashionMNIST
from oboro.data.hugging_face import HuggingFace
from oboro.data.image_folder import ImageFolder
from oboro.data.images import ImageData, from_uint8, to_uint8
from oboro.data.population import Population
from oboro.data.web_dataset import WebDataset

__all__ = [
    "CIFAR10",
    "DreamBooth",
    "Emoji",
    "FashionCaptions",
    "FashionMNIST",
    "HuggingFace",
    "ImageData",
    "ImageFolder",
    "Population",
    "WebDataset",
    "from_uint8",
    "to_uint8",
]
