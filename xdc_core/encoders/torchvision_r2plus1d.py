"""torchvision's R(2+1)D-18: the names and layers of r2plus1d.py, with other middle planes (see there)."""

from torch import nn
from torchvision.models.video import r2plus1d_18


def torchvision_r2plus1d_18() -> nn.Module:
    """Return torchvision's `r2plus1d_18` without its head: float32 [B,3,T,H,W] -> feature [B,512].

    Not the network of the published XDC weights; torchvision's own weights fit it. With a 400-way head it has
    31,505,325 parameters. Batch norm is as in torchvision: eps 1e-5, momentum 0.1.
    """
    network = r2plus1d_18()
    network.width = network.fc.in_features
    network.fc = nn.Identity()  # It has no parameters, so all other names stay the same.
    return network
