"""Fetch what the tests of the engines need, into `.engines/`: `python -m tests.engines.install [slurm ray seaweed]`.

Without a name all are fetched. What is there already is kept. Neither the system nor `.venv` is changed.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def _slurm() -> Path:
    from tests.engines.install_slurm import install_slurm

    return install_slurm()


def _ray() -> Path:
    from tests.engines.install_ray import install_ray

    return install_ray()


def _seaweed() -> Path:
    from tests.engines.install_seaweed import install_seaweed

    return install_seaweed()


ENGINES: dict[str, Callable[[], Path]] = {"slurm": _slurm, "ray": _ray, "seaweed": _seaweed}


def main(names: list[str]) -> int:
    """Fetch the named engines; return the exit code, 1 if one could not be fetched."""
    if unknown := set(names) - set(ENGINES):
        print(f"{', '.join(sorted(unknown))}: unknown. There are: {', '.join(ENGINES)}.", file=sys.stderr)
        return 2
    code = 0
    for name in names or ENGINES:
        try:
            print(f"{name}: {ENGINES[name]()}")
        except (subprocess.CalledProcessError, SystemExit, OSError) as error:
            said = getattr(error, "stderr", None) or str(error)
            print(f"{name} could not be fetched, its tests will be skipped: {said.strip()[-500:]}", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
