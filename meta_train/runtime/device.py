"""Choice of the device."""

from __future__ import annotations

import torch

from learned_opt.checks.arguments import check_type


def choose_device(name: str | torch.device) -> torch.device:
    """The device of a name; "auto" is the accelerator if there is one, else the CPU.

    Raises:
        TypeError: neither a device nor its name.
        ValueError: torch does not know the name, or has no such device.
    """
    if isinstance(name, torch.device):
        return name
    check_type("device", name, (str, int), "a torch.device or its name")
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used: {reason}") from None
    if device.type == "meta":
        raise ValueError(f"device {name!r} cannot be used: its tensors hold no values")
    return device
