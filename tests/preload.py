"""What a process imports before it is forked again and again for stages: torch alone takes seconds."""

import pkgutil
from importlib import import_module

import shards
import xdc_core

# What stages import late.
LATE = ("faiss", "sklearn.linear_model", "torch._dynamo", "torchvision.models.video", "webdataset.writer")


def preload() -> None:
    """Import every module of shards and xdc_core, and `LATE`. None of them may start a thread."""
    for package in (shards, xdc_core):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            import_module(module.name)
    for name in LATE:
        import_module(name)
