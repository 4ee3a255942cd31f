"""A model's logits for uint8 images, on the inputs that it was trained on."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kd_ray.training.feed import normalized
from kd_ray.training.saved_model import SavedModel

FORWARD_ROWS = 256
"""Images at once: what a small network makes of more of them falls out of a CPU's caches."""


def raw_logits(models: Sequence[SavedModel], images: Tensor, device: torch.device) -> Tensor:
    """Raw float32 logits `(N, M, K)` of `(N, C, H, W)` uint8 images, on the CPU."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(images), FORWARD_ROWS):
            part = images[start : start + FORWARD_ROWS].to(device)
            members = [
                saved.model(normalized(part, *saved.normalization(device))).float()
                for saved in models
            ]
            parts.append(torch.stack(members, dim=1).cpu())
    return torch.cat(parts)


@contextlib.contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """On a CPU, tensor arithmetic of the block runs in one thread."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
