"""From noise to image: solvers of the reverse process."""

from oboro.sampler.adaptive import Adaptive
from oboro.sampler.ancestral import Ancestral
from oboro.sampler.ddim import DDIM
from oboro.sampler.ddnm_plus import DDNMPlus
from oboro.sampler.dpm_solver import DPMSolver2, DPMSolverPP, DPMSolverPP2S
from oboro.sampler.edm import Euler, Heun
from oboro.sampler.learned_variance import LearnedVariance
from oboro.sampler.multistep import DEIS, IPNDM, LMS, PNDM
from oboro.sampler.node import DATA, Node, ddim_step, node_at, nodes
from oboro.sampler.posterior import Posterior, posteriors
from oboro.sampler.repaint import RePaint
from oboro.sampler.restart import Restart
from oboro.sampler.sampler import Grid, Noise, Sampler, denoise
from oboro.sampler.unipc import UniPC
from oboro.sampler.walk_back import WalkBack

__all__ = [
    "DATA",
    "DDIM",
    "DEIS",
    "IPNDM",
    "LMS",
    "PNDM",
    "Adaptive",
    "Ancestral",
    "DDNMPlus",
    "DPMSolver2",
    "DPMSolverPP",
    "DPMSolverPP2S",
    "Euler",
    "Grid",
    "Heun",
    "LearnedVariance",
    "Node",
    "Noise",
    "Posterior",
    "RePaint",
    "Restart",
    "Sampler",
    "UniPC",
    "WalkBack",
    "ddim_step",
    "denoise",
    "node_at",
    "nodes",
    "posteriors",
]
