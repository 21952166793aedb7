"""Networks. A network is F(x, c_noise, cond) and declares ``min_size``: the least H and W.

``UNetEncoder`` answers with a number for each class, the others with an image.
"""

from oboro.model.dit import DiT
from oboro.model.edm2_unet import EDM2UNet
from oboro.model.song_unet import SongUNet
from oboro.model.unet import UNet
from oboro.model.unet_encoder import UNetEncoder

__all__ = ["DiT", "EDM2UNet", "SongUNet", "UNet", "UNetEncoder"]
