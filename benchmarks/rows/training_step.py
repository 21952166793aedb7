"""One training step in float32."""

import torch

from rows.networks import BATCH, FORWARD, our_step, peer_step
from rows.row import Contender, Row

row = Row("a training step, 35.7 M parameters, batch 16, 32 pixels, float32", 6, 3 * BATCH * FORWARD)


@row.contender
def diffusers() -> Contender:
    return peer_step(torch.float32)


@row.contender
def oboro() -> Contender:
    return our_step(torch.float32)
