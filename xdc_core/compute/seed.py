"""Derive a seed for every random draw."""

import hashlib


def derive_seed(*parts: object) -> int:
    """Return a seed in [0, 2^31), usually from (run seed, round, stage, modality). Equal parts give equal seeds."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
