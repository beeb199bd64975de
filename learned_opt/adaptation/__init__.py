"""Learned initialisations and adaptation: read them from a file, take a few steps from there.

    initialization = load_initialization("maml.safetensors")
    adapted = adapt(module, (inputs, targets), initialization=initialization, steps=5)

In a usual training loop, call `initialization.apply_to(module)` before the first step.
"""

from learned_opt.adaptation.adapt import adapt
from learned_opt.adaptation.bundled import list_initializations
from learned_opt.adaptation.initialization import Initialization
from learned_opt.adaptation.initialization_file import load_initialization, save_initialization

__all__ = [
    "Initialization",
    "adapt",
    "list_initializations",
    "load_initialization",
    "save_initialization",
]
