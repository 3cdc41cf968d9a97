"""An encoder with one linear head a label source."""

import torch
from torch import Tensor, nn


class EncoderWithHeads(nn.Module):
    """Views -> logits [B, k] by label source. Heads are drawn anew every round: cluster numbers mean nothing across."""

    def __init__(self, encoder: nn.Module, classes: dict[str, int], std: float, seed: int) -> None:
        super().__init__()
        self.encoder = encoder
        generator = torch.Generator().manual_seed(seed)
        heads = {}
        for source, k in classes.items():
            head = nn.Linear(int(encoder.width), k)  # type: ignore[arg-type]
            nn.init.normal_(head.weight, 0.0, std, generator=generator)
            nn.init.zeros_(head.bias)
            heads[source] = head
        self.heads = nn.ModuleDict(heads)

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        """One forward pass of the encoder, all heads on its feature."""
        feature = self.encoder(views)
        return {source: head(feature) for source, head in self.heads.items()}
