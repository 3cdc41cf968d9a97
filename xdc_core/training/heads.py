"""An encoder with one linear head per clustering of its label sources."""

import torch
from torch import Tensor, nn


class EncoderWithHeads(nn.Module):
    """Map views to logits [B, k] by head. classes: k by head.

    Heads are initialised again in every round, because the numbers of clusters have no meaning across rounds.
    """

    def __init__(self, encoder: nn.Module, classes: dict[str, int], std: float, seed: int) -> None:
        super().__init__()
        self.encoder = encoder
        generator = torch.Generator().manual_seed(seed)
        heads = {}
        for name, k in classes.items():
            head = nn.Linear(int(encoder.width), k)  # type: ignore[arg-type]
            nn.init.normal_(head.weight, 0.0, std, generator=generator)
            nn.init.zeros_(head.bias)
            heads[name] = head
        self.heads = nn.ModuleDict(heads)

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        """Return the logits of all heads, from one forward pass of the encoder."""
        feature = self.encoder(views)
        return {name: head(feature) for name, head in self.heads.items()}
