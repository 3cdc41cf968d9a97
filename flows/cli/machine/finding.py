"""One finding of `xdc doctor`."""


def finding(what: str, state: str, text: str) -> dict[str, str]:
    """Return a finding. `state`: works, absent (xdc does without) or broken (xdc cannot run).

    Of a flow run: works, unseen (its process cannot be seen from here), dead (its process is gone) or repaired.
    """
    return {"what": what, "state": state, "text": text}
