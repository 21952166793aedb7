"""The same in bfloat16 autocast."""

import torch

from rows.networks import BATCH, FORWARD, our_step, peer_step
from rows.row import Contender, Row

row = Row("the same in bfloat16 autocast", 6, 3 * BATCH * FORWARD, torch.bfloat16)


@row.contender
def diffusers() -> Contender:
    return peer_step(torch.bfloat16)


@row.contender
def oboro() -> Contender:
    return our_step(torch.bfloat16)


@row.contender
def oboro_float32() -> Contender:
    return our_step(torch.float32)
