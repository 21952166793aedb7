"""The tables of docs/anomaly.md: detectors on Fashion-MNIST, over seeds.

    python benchmarks/anomaly.py FOLDER [table ...]

trains with ``python train.py`` and measures with ``python detect.py``; what lies in FOLDER already is not made again.
Tables: ``novelty`` (clothes against digits and upside-down clothes), ``defects``, ``classes`` (each class left out in
turn).
"""

import json
import subprocess
import sys
from pathlib import Path

import torch

HOUSE = Path(__file__).resolve().parent.parent
SEEDS = (0, 1, 2)
DATA = ["data=fashion_mnist_10k", "data.validation=1000", "data.test=1000", "data.num_classes=0", "data.seed=0"]
LEAN = ["metrics=[]", "callbacks=[throughput,checkpoints,progress]"]
DIFFUSION = [*LEAN, "conditioner=unconditional"]
MODELS = {
    "diffusion": DIFFUSION,
    "denoising_autoencoder": ["experiment=denoising_autoencoder_fashion", *LEAN],
    "vae": ["experiment=vae_fashion", *LEAN],
}
# How each is asked: by which model, and with what.
DETECTORS = {
    "pca": (None, ["detector=pca", "detector.components=60"]),
    "denoising autoencoder": ("denoising_autoencoder", ["detector=denoising_error", "detector.times=[0.3]"]),
    "VAE": ("vae", ["detector=autoencoding"]),
    "denoising error": ("diffusion", ["detector=denoising_error"]),
    "partial diffusion": ("diffusion", ["detector=partial_diffusion", "sampler=ddim", "sampler.steps=10"]),
    "DDAD": ("diffusion", ["detector=partial_diffusion", "sampler=ddim", "sampler.steps=10", "guidance=ddad"]),
    "patch core, denoiser": ("diffusion", ["detector=patch_core"]),
    "patch core, classifier": (None, ["detector=patch_core_fashion"]),
}
