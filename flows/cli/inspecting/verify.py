"""`xdc verify` on the terminal."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.terminal import counter
from xdc_core.inspection.verification import Finding, commands, verify_run
from xdc_core.runs.run import open_run


def verify(root: Path, show: bool) -> dict[str, Any]:
    """Verify a run. Returns `sound` (whether nothing is damaged, and all could be checked), the `findings`, and the
    `commands` that repair them.

    Raises:
        ConfigError: the run does not exist.
    """
    run = open_run(root)
    if show:
        with counter("verify") as progress:
            findings = verify_run(run, progress)
    else:
        findings = verify_run(run)
    unsound = any(finding.kind in ("damaged", "unchecked") for finding in findings)
    return {
        "sound": not unsound,
        "findings": [asdict(finding) for finding in findings],
        "commands": commands(findings),
    }


def print_verification(root: Path, result: dict[str, Any]) -> None:
    """Print a line or two per finding, and at the end the commands that repair what is damaged."""
    for values in result["findings"]:
        finding = Finding(**values)
        print(f"{finding.kind}: {finding.path}: {finding.what}")
        if finding.kind != "damaged":
            print(f"  {finding.remedy}")
    if result["commands"]:
        print("\nTo rebuild what is damaged, in this order:")
        for command in result["commands"]:
            print(f"  {command}")
    elif result["sound"]:
        print(f"{root}: all committed files are unchanged.")
