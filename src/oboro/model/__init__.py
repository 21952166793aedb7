"""Networks. A network is F(x, c_noise, signals) and declares ``min_size``, the least length of an axis, and ``reads``:
the names of the signals that it reads, and their kinds (``oboro.condition``); whoever calls it checks them.

``UNetEncoder`` answers with a number for each class, the others with an image. ``CLIP`` is no such network: it sees
images without noise, and texts.
"""

from oboro.model.clip import CLIP, TextTower
from oboro.model.clip_text import CLIPText
from oboro.model.controlnet import ControlNet
from oboro.model.dcgan import DCGAN
from oboro.model.dit import DiT
from oboro.model.edm2_unet import EDM2UNet
from oboro.model.ldm_unet import EmptyText, GroupNormSettings, LDMAttention, LDMUNet, StepIndex
from oboro.model.song_unet import SongUNet
from oboro.model.t2i_adapter import T2IAdapter
from oboro.model.t5_text import T5Text
from oboro.model.tokenizer import Tokenizer
from oboro.model.unet import UNet
from oboro.model.unet_encoder import UNetEncoder
from oboro.model.vae import VAE
from oboro.model.vision import ConvTower, VisionTransformer

__all__ = [
    "CLIP",
    "DCGAN",
    "VAE",
    "CLIPText",
    "ControlNet",
    "ConvTower",
    "DiT",
    "EDM2UNet",
    "EmptyText",
    "GroupNormSettings",
    "LDMAttention",
    "LDMUNet",
    "SongUNet",
    "StepIndex",
    "T2IAdapter",
    "T5Text",
    "TextTower",
    "Tokenizer",
    "UNet",
    "UNetEncoder",
    "VisionTransformer",
]
