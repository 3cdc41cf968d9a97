"""torchvision's R(2+1)D-18, beside ours: the same names and the same layers, other middle planes (see r2plus1d.py)."""

from torch import nn
from torchvision.models.video import r2plus1d_18


def torchvision_r2plus1d_18() -> nn.Module:
    """torchvision's `r2plus1d_18` without its head: float32 [B,3,T,H,W] -> feature [B,512], attribute `width: int`.

    Not the network of the published XDC weights; torchvision's own weights fit it. With a 400-way head it has
    31,505,325 parameters. Batch norm is as in torchvision: eps 1e-5, momentum 0.1.
    """
    network = r2plus1d_18()
    network.width = network.fc.in_features
    network.fc = nn.Identity()  # Has no parameters: all other names stay what they are.
    return network
