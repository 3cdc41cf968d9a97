"""Batch-norm statistics of an encoder that has not been trained.

Round 1's features come from random encoders. Their running statistics are still 0 and 1, not those of the data: in
evaluation mode each layer would pass on whatever scale its random weights give.
"""

from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from xdc_core.encoders.spec import check_feature


def calibrate_batch_norm(encoder: nn.Module, batches: Iterable[Tensor]) -> int:
    """Set the running mean and variance of every batch norm to their average over `batches`.

    batches: what the encoder takes, on the encoder's device. Each counts the same, so make them equally large.
    Returns the number of batches. Parameters, momentum and training or evaluation mode are left as they are.
    An unverified option: the paper does not say how its random encoders are normalised.

    Raises:
        ValueError: there is no batch; the statistics are then unchanged.
        ConfigError: what the encoder makes of a batch is not [B, width].
    """
    rest = iter(batches)
    first = next(rest, None)
    if first is None:
        raise ValueError("calibrate_batch_norm: no batches given; mean and variance need at least one")
    norms = [module for module in encoder.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    modes = [(module, module.training) for module in encoder.modules()]
    count = 0
    try:
        encoder.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's way to ask for the plain average over all batches
            norm.train()
        with torch.no_grad():
            for batch in chain([first], rest):
                check_feature(encoder(batch), encoder, len(batch))
                count += 1
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes:
            module.training = mode
    return count
