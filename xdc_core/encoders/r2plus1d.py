"""R(2+1)D, the video encoder: every 3-d convolution is a 2-d one in space and then a 1-d one in time.

`r2plus1d_18` is the network of the published XDC weights (Tran et al., CVPR 2018; as in facebookresearch/VMZ). Its
parameter names are those of torchvision's `r2plus1d_18`, its shapes are not: here the middle planes follow from
each convolution's own planes, while torchvision shares them between the two convolutions of a block.
"""

from collections.abc import Sequence

from torch import Tensor, nn

BATCH_NORM_EPS = 1e-3
BATCH_NORM_MOMENTUM = 0.1


def middle_planes(planes_in: int, planes_out: int) -> int:
    """Return the number of planes between the two halves of a (2+1)-d 3x3x3 convolution.

    With it both halves together have as many parameters as the full 3-d convolution (Tran et al.).
    """
    return (planes_in * planes_out * 3 * 9) // (planes_in * 9 + 3 * planes_out)


def batch_norm(planes: int) -> nn.BatchNorm3d:
    return nn.BatchNorm3d(planes, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM)


def conv2plus1d(
    planes_in: int, planes_out: int, space_stride: int = 1, time_stride: int = 1, middle_share: float = 1.0
) -> nn.Sequential:
    """Return a 3x3x3 convolution in two halves with batch norm and ReLU between: [B,I,T,H,W] -> [B,O,T',H',W']."""
    middle = max(1, int(middle_planes(planes_in, planes_out) * middle_share))
    space, time = (1, space_stride, space_stride), (time_stride, 1, 1)
    return nn.Sequential(
        nn.Conv3d(planes_in, middle, (1, 3, 3), stride=space, padding=(0, 1, 1), bias=False),
        batch_norm(middle),
        nn.ReLU(inplace=True),
        nn.Conv3d(middle, planes_out, (3, 1, 1), stride=time, padding=(1, 0, 0), bias=False),
    )


class BasicBlock(nn.Module):
    """Two (2+1)-d convolutions and a shortcut, which is projected where the shape changes."""

    def __init__(
        self, planes_in: int, planes_out: int, space_stride: int, time_stride: int, middle_share: float
    ) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            conv2plus1d(planes_in, planes_out, space_stride, time_stride, middle_share),
            batch_norm(planes_out),
            nn.ReLU(inplace=True),
        )
        self.conv2 = nn.Sequential(
            conv2plus1d(planes_out, planes_out, middle_share=middle_share), batch_norm(planes_out)
        )
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if planes_in != planes_out or (space_stride, time_stride) != (1, 1):
            stride = (time_stride, space_stride, space_stride)
            self.downsample = nn.Sequential(
                nn.Conv3d(planes_in, planes_out, 1, stride=stride, bias=False), batch_norm(planes_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.conv2(self.conv1(x)) + shortcut)


class R2Plus1D(nn.Module):
    """A family of video encoders without a head: float32 [B,3,T,H,W] -> feature [B,width].

    stem_planes: middle planes of the stem, whose output has widths[0] planes and half the height and width.
    widths, blocks: planes and number of blocks of each stage, named layer1, layer2, ...; 0 blocks: no stage.
    time_strides: factor by which a stage shortens time; None: 1 for the first stage, 2 for the others.
    Every stage but the first halves height and width.
    stem_kernel: side of the stem's spatial kernel, odd, in pixels.
    middle_share: share of the formula's middle planes that are kept, 1 in the published network.

    Raises ValueError if widths, blocks and time_strides differ in length.
    """

    def __init__(
        self,
        stem_planes: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        *,
        time_strides: Sequence[int] | None = None,
        stem_kernel: int = 7,
        middle_share: float = 1.0,
    ) -> None:
        super().__init__()
        strides = [1] + [2] * (len(widths) - 1) if time_strides is None else list(time_strides)
        if not len(widths) == len(blocks) == len(strides) > 0:
            raise ValueError(
                f"R2Plus1D: widths {list(widths)}, blocks {list(blocks)} and time_strides {strides} need "
                "one entry for each stage"
            )
        half = stem_kernel // 2
        self.stem = nn.Sequential(
            nn.Conv3d(3, stem_planes, (1, stem_kernel, stem_kernel), (1, 2, 2), padding=(0, half, half), bias=False),
            batch_norm(stem_planes),
            nn.ReLU(inplace=True),
            nn.Conv3d(stem_planes, widths[0], (3, 1, 1), padding=(1, 0, 0), bias=False),
            batch_norm(widths[0]),
            nn.ReLU(inplace=True),
        )
        planes = widths[0]
        self.stages: list[str] = []
        for number, (width, count, time_stride) in enumerate(zip(widths, blocks, strides, strict=True), 1):
            stage = nn.Sequential()
            for index in range(count):
                space, time = (1 if number == 1 else 2, time_stride) if index == 0 else (1, 1)
                stage.append(BasicBlock(planes, width, space, time, middle_share))
                planes = width
            self.stages.append(f"layer{number}")
            self.add_module(self.stages[-1], stage)
        self.width: int = planes

    def forward(self, clips: Tensor) -> Tensor:
        """Map clips, float32 [B,3,T,H,W], normalised RGB, to features [B,width], the mean over time and space."""
        x = self.stem(clips)
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return x.mean(dim=(2, 3, 4))


def r2plus1d_18() -> R2Plus1D:
    """Return the paper's video encoder, 512-d. With a 400-way head `fc` it has 33,370,839 parameters.

    Time shrinks by 8 and each side by 16: a clip of 8 frames ends as one step in time.
    """
    return R2Plus1D(45, (64, 128, 256, 512), (2, 2, 2, 2))


def r2plus1d_tiny() -> R2Plus1D:
    """Return a small encoder of the same family, for clips of 6 to 8 frames of 32 x 32 pixels on one CPU core.

    Not from the paper. 64-d, 86,862 parameters: a stem of 16 planes, a block of 32 and one of 64. It halves time
    once, at the end (6 frames become 3 steps, 8 become 4), and each side three times.
    """
    return R2Plus1D(12, (16, 32, 64), (0, 1, 1), time_strides=(1, 1, 2), stem_kernel=5, middle_share=0.4)
