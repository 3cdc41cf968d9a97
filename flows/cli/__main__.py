"""`python -m flows.cli`: the command `xdc` without installation."""

from flows.cli.app import main

main()
