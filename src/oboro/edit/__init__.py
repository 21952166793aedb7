"""Editing without training: (model, picture, what it shows, what it shall show) ↦ the edited picture."""

from oboro.edit.ddpm_inversion import DDPMInversion
from oboro.edit.edit import Edit, Model, Pictures
from oboro.edit.flow_edit import FlowEdit
from oboro.edit.inversion import Interpolation, Inversion
from oboro.edit.prompt_to_prompt import PromptToPrompt
from oboro.edit.rf_inversion import RFInversion
from oboro.edit.sdedit import SDEdit

__all__ = [
    "DDPMInversion",
    "Edit",
    "FlowEdit",
    "Interpolation",
    "Inversion",
    "Model",
    "Pictures",
    "PromptToPrompt",
    "RFInversion",
    "SDEdit",
]
