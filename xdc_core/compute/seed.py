"""Every random draw comes from a seed of its own."""

import hashlib


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2^31) from, as a rule, (run seed, round, stage, modality). Equal parts give equal seeds."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
