"""torchrun that gives its process id to the ranks: `python -m xdc_core.training.agent ARGUMENTS-OF-TORCHRUN`."""

import os

AGENT = "XDC_AGENT"  # The environment variable with the process id.


def main() -> None:
    """Run torchrun, and return when the ranks have ended."""
    os.environ[AGENT] = str(os.getpid())
    from torch.distributed.run import main as torchrun

    torchrun()


if __name__ == "__main__":
    main()
