"""`python -m flows.cli`: the command `xdc` without its being installed."""

from flows.cli.app import main

main()
