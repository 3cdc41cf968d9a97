"""Batch norm over the batch of all processes, on any device.

torch's own SyncBatchNorm does the same, but only on GPUs. With this one two processes on CPUs have the loss curve of
one process.
"""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.batchnorm import _BatchNorm


class _AllGather(torch.autograd.Function):
    """Gather a tensor [...] of each process to [ranks, ...]. Each process gets the gradient of its own row.

    (torch.distributed.nn.functional.all_gather does the same, but is deprecated.)
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        rows = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
        distributed.all_gather(rows, own)
        return torch.stack(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total[distributed.get_rank()]


class SyncedBatchNorm(_BatchNorm):
    """A batch norm [B,C,...] -> [B,C,...] whose statistics, in training, are those of all processes together.

    Every process must pass a batch of the same shape. Gradients flow through the statistics into every process.
    Parameters, buffers and their names are those of `nn.BatchNorm2d` and `nn.BatchNorm3d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x; in evaluation mode with the running statistics, like any batch norm."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        if not self.training:
            return batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        others = [axis for axis in range(x.ndim) if axis != 1]
        own_variance, own_mean = torch.var_mean(x.float(), others, correction=0)
        means, variances = _AllGather.apply(torch.stack([own_mean, own_variance])).unbind(1)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        with torch.no_grad():
            count = len(means) * x.numel() // x.shape[1]
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        shape = (1, -1, *[1] * (x.ndim - 2))
        return torch.addcmul((self.bias - mean * scale).view(shape), x.float(), scale.view(shape)).to(x.dtype)


def sync_batch_norms(model: nn.Module) -> None:
    """Replace every batch norm inside `model` by a synced one with the same parameters and buffers.

    Call this before the optimiser is made, and only if `torch.distributed` is initialised.
    """
    for name, child in list(model.named_children()):
        if isinstance(child, _BatchNorm):
            synced = SyncedBatchNorm(child.num_features, child.eps, child.momentum)
            synced.load_state_dict(child.state_dict())
            setattr(model, name, synced.train(child.training))
        else:
            sync_batch_norms(child)
