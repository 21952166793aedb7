"""Networks. A network is F(x, c_noise, cond) and declares ``stride``: by what H and W must divide."""

from oboro.model.unet import UNet

__all__ = ["UNet"]
