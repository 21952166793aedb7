"""Adapters: which weights of a network a run trains."""

from oboro.adapter.adapter import Adapter, Full
from oboro.adapter.file import AdapterFile, read_adapter, write_adapter
from oboro.adapter.lora import LoRA, LowRank, low_rank_layers, merged_state, plain_state, relative_update

__all__ = [
    "Adapter",
    "AdapterFile",
    "Full",
    "LoRA",
    "LowRank",
    "low_rank_layers",
    "merged_state",
    "plain_state",
    "read_adapter",
    "relative_update",
    "write_adapter",
]
