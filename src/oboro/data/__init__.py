"""Data for training: one class per kind of source, decoded once into a memory-mapped array, read in a fixed order."""

from oboro.data.cache import Block, Source
from oboro.data.cifar10 import CIFAR10
from oboro.data.data_module import DataModule, Settings
from oboro.data.digits import Digits
from oboro.data.dreambooth import DreamBooth
from oboro.data.emoji import Emoji
from oboro.data.emoji_edits import EmojiEdits
from oboro.data.fashion_captions import FashionCaptions
from oboro.data.fashion_mnist import FashionMNIST
from oboro.data.hugging_face import HuggingFace
from oboro.data.image_data import ImageData, ImageSettings
from oboro.data.image_folder import ImageFolder
from oboro.data.mvtec import MVTec
from oboro.data.population import Population
from oboro.data.series import Series
from oboro.data.series_data import SeriesData
from oboro.data.split import Split
from oboro.data.streaming import Streaming
from oboro.data.textures import Textures
from oboro.data.web_dataset import WebDataset

__all__ = [
    "CIFAR10",
    "Block",
    "DataModule",
    "Digits",
    "DreamBooth",
    "Emoji",
    "EmojiEdits",
    "FashionCaptions",
    "FashionMNIST",
    "HuggingFace",
    "ImageData",
    "ImageFolder",
    "ImageSettings",
    "MVTec",
    "Population",
    "Series",
    "SeriesData",
    "Settings",
    "Source",
    "Split",
    "Streaming",
    "Textures",
    "WebDataset",
]
