"""torchrun, whose ranks know its process id: `python -m xdc_core.training.agent ARGUMENTS`, those of torchrun."""

import os

AGENT = "XDC_AGENT"  # In the environment of the ranks.


def main() -> None:
    """Returns when the ranks have ended."""
    os.environ[AGENT] = str(os.getpid())
    from torch.distributed.run import main as torchrun

    torchrun()


if __name__ == "__main__":
    main()
