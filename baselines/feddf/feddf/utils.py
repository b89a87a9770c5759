"""feddf: A Flower Baseline."""

import torch
from torch import Tensor, nn


def predict(net: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """Return the logits of images, on the CPU."""
    net.eval()
    with torch.no_grad():
        return torch.cat([net(part.to(device)).cpu() for part in images.split(512)])


def copy_of(net: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a model's weights."""
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def best_device() -> torch.device:
    """Return the first GPU, or the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
