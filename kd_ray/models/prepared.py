"""What stands around a network that wants other inputs, or has more outputs, than the data's."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_ray.config import InputOptions
from kd_ray.errors import ConfigError


class Prepared(nn.Module):
    """A network behind its own normalization and size, and before the choice of its outputs.

    Views are rendered and normalized as the data is, for every model alike. Here they become what
    this network was made for, so that a teacher and a student of different sizes see the same view.
    Nothing of it is stored among the weights.
    """

    scale: Tensor
    offset: Tensor
    columns: Tensor

    def __init__(
        self,
        network: nn.Module,
        wanted: InputOptions,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        columns: Sequence[int] | None = None,
    ):
        """A network around which pixels come normalized by `mean` and `std`, `(C,)` each."""
        super().__init__()
        self.network = network
        self.size, self.interpolation = wanted.size, wanted.interpolation
        self.channels = len(wanted.mean or mean)
        if self.channels != len(mean) and len(mean) != 1:
            raise ConfigError(
                f"input.mean: must have a number for each of the {len(mean)} channels of the "
                f"images, but has {self.channels}; correct it"
            )
        own_mean, own_std = (torch.tensor(wanted.mean or mean), torch.tensor(wanted.std or std))
        scale = torch.tensor(std) / own_std
        offset = (torch.tensor(mean) - own_mean) / own_std
        self.is_normalized_anew = wanted.mean is not None
        self.picks = columns is not None
        for name, values in (("scale", scale), ("offset", offset)):
            self.register_buffer(name, values.view(-1, 1, 1), persistent=False)
        self.register_buffer("columns", torch.tensor(columns or []).long(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """`(N, C, H, W)`, normalized as the data is, to logits `(N, K)`."""
        if self.is_normalized_anew:
            images = images * self.scale + self.offset  # one channel becomes as many as there are
        if self.size is not None and images.shape[-2:] != (self.size, self.size):
            images = F.interpolate(
                images,
                (self.size, self.size),
                mode=self.interpolation,
                antialias=self.interpolation != "nearest",
            )
        logits: Tensor = self.network(images)
        return logits.index_select(1, self.columns) if self.picks else logits


def network_in(model: nn.Module) -> nn.Module:
    """The network itself, whether or not something stands around it."""
    return model.network if isinstance(model, Prepared) else model
