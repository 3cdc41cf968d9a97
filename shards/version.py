"""The name of the distribution, and the installed version.

The name `xdc` belongs to another project at the package index; the command and the imports do not depend on it.
"""

from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "xdc-pipeline"


def package_version() -> str:
    """Return the installed version, "unknown" where the packages are not installed but only on the path."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"
