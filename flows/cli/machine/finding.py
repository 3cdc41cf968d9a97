"""What `xdc doctor` says of one thing."""


def finding(what: str, state: str, text: str) -> dict[str, str]:
    """`state`: works, absent (xdc does without) or broken (xdc cannot run).

    Of a flow run: works, unseen (nobody knows whether it does), dead (without Prefect's knowing) or buried.
    """
    return {"what": what, "state": state, "text": text}
