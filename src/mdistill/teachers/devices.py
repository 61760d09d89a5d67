"""Devices by name: cpu, cuda, cuda:N, or auto."""

from __future__ import annotations

import re

import torch

from mdistill.errors import BadInput


def resolve_device(device: str, *, subject: str = "--device") -> str:
    """The device that torch is to use; "auto" is cuda where there is one, else cpu.

    Raises:
        BadInput: Another name, cuda without CUDA, or a card that is not there.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    if not re.fullmatch(r"cuda(:\d+)?", device):
        raise BadInput(subject, device, allowed="cpu, cuda, cuda:N or auto", fix=f"{subject} auto")
    if not torch.cuda.is_available():
        problem = f"{device}, but torch {torch.__version__} finds no CUDA device"
        raise BadInput(subject, problem, allowed="cpu or auto on this machine", fix=f"{subject} cpu, or install torch with CUDA")
    count, number = torch.cuda.device_count(), int(device.partition(":")[2] or 0)
    if number >= count:
        raise BadInput(subject, device, allowed=f"cuda:0 to cuda:{count - 1}", fix=f"{subject} cuda:{count - 1}")
    return device
