"""The tables behind a round's page: all clips of a cluster, changes since the round before, similar clips, rejects."""
