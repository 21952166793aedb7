"""Networks. A network is F(x, c_noise, cond) and declares ``min_size``: the least H and W."""

from oboro.model.dit import DiT
from oboro.model.edm2_unet import EDM2UNet
from oboro.model.song_unet import SongUNet
from oboro.model.unet import UNet

__all__ = ["DiT", "EDM2UNet", "SongUNet", "UNet"]
