"""A folder per class."""

import re
from pathlib import Path

from shards.datasets.dataset import Dataset, Role, Split, check_splits, make_dataset, role_of
from shards.datasets.files import certain_modalities, find_files
from shards.reject import Reject
from shards.sources.source import Source


def read_folder(root: Path) -> Dataset:
    """Read class folders, with or without folders for train, validation and test above them.

    A file's class is the name of its folder. Folders at the top are roles if there is one for training (train,
    train_...) and one for test or validation (test, val, valid, validation, ..., also with more after an underscore);
    otherwise a class could not be called train. With roles there is one split, `1`. Without them there is one split,
    `all`, in which everything is for training; evaluations divide it.

    Raises:
        ConfigError: no file in a class folder, or a split cannot be used (see check_splits).
    """
    files = find_files(root)
    roles = {top: role for top in {path.split("/")[0] for path in files.names} if (role := _role(top))}
    divided = "train" in roles.values() and len(set(roles.values())) > 1
    sources, rejects = [], list(files.rejects)
    assigned: dict[str, Role] = {}
    for path in files.names:
        *folders, _ = path.split("/")
        if len(folders) < (2 if divided else 1):
            rejects.append(Reject(path, "list", "unlisted", "it is not in a class folder"))
        elif divided and folders[0] not in roles:
            rejects.append(Reject(path, "list", "unlisted", f"it is in none of the folders {', '.join(sorted(roles))}"))
        else:
            sources.append(Source(path, labels={"label": folders[-1]}))
            assigned[path] = roles[folders[0]] if divided else "train"
    split = Split("1" if divided else "all", assigned)
    dataset = make_dataset("folder", certain_modalities(assigned), root, sources, rejects, [split])
    return check_splits(dataset) if divided else dataset


def _role(folder: str) -> Role | None:
    return role_of(re.split("[-_]", folder)[0])
