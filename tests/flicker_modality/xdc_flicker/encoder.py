"""An encoder for the modality `flicker`."""

from torch import Tensor, nn


class FlickerNet(nn.Module):
    """Two convolutions in space and time: float32 [B, 1, frames, size, size] -> feature [B, 32]."""

    width = 32

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(1, 8, (1, 5, 5), stride=(1, 2, 2), padding=(0, 2, 2), bias=False),
            nn.BatchNorm3d(8),
            nn.ReLU(inplace=True),
            nn.Conv3d(8, self.width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm3d(self.width),
            nn.ReLU(inplace=True),
        )

    def forward(self, views: Tensor) -> Tensor:
        feature: Tensor = self.layers(views).mean(dim=(2, 3, 4))
        return feature


def flicker_tiny() -> FlickerNet:
    """Return the encoder of `flicker_tiny`."""
    return FlickerNet()
