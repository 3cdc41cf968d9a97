"""The known layouts, by name."""

from collections.abc import Callable
from pathlib import Path

from shards.datasets.dataset import Dataset
from shards.errors import ConfigError
from shards.layouts.audioset import read_audioset
from shards.layouts.dcase2014 import read_dcase2014
from shards.layouts.esc import read_esc10, read_esc50
from shards.layouts.folder import read_folder
from shards.layouts.grid import read_grid, read_grid_recordings
from shards.layouts.hmdb51 import read_hmdb51
from shards.layouts.kinetics import read_kinetics
from shards.layouts.manifest import read_split_manifest
from shards.layouts.ucf101 import read_ucf101
from shards.layouts.vggsound import read_vggsound
from shards.registry import Registry

LAYOUTS: Registry[Callable[[Path], Dataset]] = Registry(
    "layout",
    "xdc.layouts",
    {
        "ucf101": read_ucf101,
        "hmdb51": read_hmdb51,
        "esc50": read_esc50,
        "esc10": read_esc10,
        "dcase2014": read_dcase2014,
        "kinetics": read_kinetics,
        "audioset": read_audioset,
        "vggsound": read_vggsound,
        "grid": read_grid,
        "grid_recordings": read_grid_recordings,
        "folder": read_folder,
        "manifest": read_split_manifest,
    },
    of=Callable,
)


def read_dataset(layout: str, root: Path) -> Dataset:
    """Read the data set at `root` (for `manifest`, the table) in its layout. No media file is opened.

    Raises:
        ConfigError: there is no such layout, nothing at `root`, or `root` has another layout.
    """
    LAYOUTS.check(layout)
    if not root.exists():
        raise ConfigError(f"{root} does not exist. Give the data set in the layout {layout}.")
    if layout != "manifest" and not root.is_dir():
        raise ConfigError(f"{root} is not a folder. The layout {layout} needs the data set's folder.")
    return LAYOUTS.find(layout)(root)
