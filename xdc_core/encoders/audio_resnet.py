"""The audio encoder: a 2-d ResNet over a log-mel spectrogram of 100 frames x 40 bands.

`audio_resnet_18` is the "ResNet-18" of the audio path of facebookresearch/VMZ, the code base of two of the
paper's authors. No audio weights were published, so the parameter names are our own.
"""

from collections.abc import Sequence

from torch import Tensor, nn

BATCH_NORM_EPS = 1e-3
BATCH_NORM_MOMENTUM = 0.1


def batch_norm(planes: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(planes, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM)


def conv3x3(planes_in: int, planes_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(planes_in, planes_out, 3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is projected where the shape changes."""

    def __init__(self, planes_in: int, planes_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(planes_in, planes_out, stride)
        self.bn1 = batch_norm(planes_out)
        self.conv2 = conv3x3(planes_out, planes_out)
        self.bn2 = batch_norm(planes_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or planes_in != planes_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(planes_in, planes_out, 1, stride=stride, bias=False), batch_norm(planes_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class AudioResNet(nn.Module):
    """A family of audio encoders without a head: float32 [B,1,T,M] -> feature [B,width].

    stem_planes: planes of the first 3x3 convolution, which has a bias, no batch norm and no ReLU, as in VMZ.
    widths, blocks: planes and number of blocks of each stage; every stage halves time and frequency.
    average: pool the last map by its mean instead of its maximum (which VMZ takes).
    stem_stride: of the first convolution, in time and frequency.

    Raises ValueError if widths and blocks differ in length.
    """

    def __init__(
        self,
        stem_planes: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        *,
        average: bool = False,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        if not len(widths) == len(blocks) > 0:
            raise ValueError(
                f"AudioResNet: widths {list(widths)} and blocks {list(blocks)} need one entry for each stage"
            )
        self.stem = nn.Conv2d(1, stem_planes, 3, stride=stem_stride, padding=1)
        self.stages = nn.Sequential()
        planes = stem_planes
        for width, count in zip(widths, blocks, strict=True):
            for index in range(count):
                self.stages.append(BasicBlock(planes, width, stride=2 if index == 0 else 1))
                planes = width
        self.average = average
        self.width: int = planes

    def forward(self, spectrograms: Tensor) -> Tensor:
        """Map spectrograms, float32 [B,1,T,M], time before frequency, to features [B,width].

        The pool is the maximum over the whole last map. For 100 x 40 and five stages that map is 4 x 2, so it
        is VMZ's 4 x 2 max-pool; other sizes are accepted too.
        """
        last = self.stages(self.stem(spectrograms))
        return last.mean(dim=(2, 3)) if self.average else last.amax(dim=(2, 3))


def audio_resnet_18() -> AudioResNet:
    """Return the audio encoder of VMZ, 512-d, 11,202,528 parameters: a stem of 16 planes, then 3 blocks of 32 planes
    and 2 each of 64, 128, 256 and 512."""
    return AudioResNet(16, (32, 64, 128, 256, 512), (3, 2, 2, 2, 2))


def audio_resnet_tiny() -> AudioResNet:
    """Return a small encoder of the same family for one CPU core, 64-d, 76,016 parameters. Not from the paper.

    It pools by the mean: with random weights the maximum over such a large map separates digits much worse
    (docs/evidence.md), and XDC starts from random weights. The stem's stride of 2 makes it four times as fast.
    """
    return AudioResNet(8, (16, 32, 64), (1, 1, 1), average=True, stem_stride=2)
