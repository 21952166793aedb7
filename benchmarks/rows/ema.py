"""One update of the averaged weights."""

from diffusers.training_utils import EMAModel

from oboro.ema import EMA, ConstantDecay
from rows.networks import peer
from rows.row import Contender, Row

row = Row("an update of one average of 35.7 M parameters", 30)


@row.contender
def diffusers() -> Contender:
    network = peer()
    average = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True)
    return lambda: average.step(network.parameters())


@row.contender
def oboro() -> Contender:
    network, average = peer(), EMA({"constant": ConstantDecay(0.9999)})
    average.start(network)
    return lambda: average.update(network)
