"""`xdc export`: encoders in a folder for others."""

from pathlib import Path
from typing import Annotated

import typer

from flows.options import JsonOption, RoundOption, RunArgument, errors_as_exit_codes


def export(
    run: RunArgument,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="the folder to write: new, or empty")],
    number: RoundOption = None,
    modality: Annotated[
        list[str] | None, typer.Option("--modality", metavar="M", help="only this modality's encoder; can be repeated")
    ] = None,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="also model.onnx, checked against PyTorch; needs the extra onnx")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option("--push", metavar="REPO", help="then upload DIR to this repository of the Hugging Face Hub"),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Write a run's encoders into a folder that others can use: weights, settings, clusters and a model card.

    DIR/<modality>/ has model.safetensors, config.json and README.md in the layout of the Hugging Face Hub, and the
    clusters of this encoder's features. See docs/export.md.

    By default these are the encoders at the start of the newest round whose encoders are up to date.
    """
    with errors_as_exit_codes():
        import json

        from xdc_core.exports.write import export as write
        from xdc_core.graph.rounds import as_stopped
        from xdc_core.runs.run import open_run

        if onnx:
            from xdc_core.exports.onnx import check_installed

            check_installed()
        if push:
            from xdc_core.exports.hub import push as upload
        made = write(as_stopped(open_run(run)), to, number, modality or [], onnx)
        where = upload(to, push) if push else None
        if json_:
            values = {"path": str(to), "round": made.round, "folders": list(made.folders), "reused": made.reused}
            print(json.dumps(values | {"without_clusters": dict(made.without), "pushed": where}))
            return
        print(
            f"{to}: {', '.join(made.folders)} of round {made.round}{' (it was there already)' if made.reused else ''}"
        )
        for name, why in made.without.items():
            print(f"{name} has no clusters: {why}.")
        if where:
            print(f"pushed: {where}")
        elif not made.reused:
            print(f"Before you hand it on, fill in the licence at the top of each README.md in {to}.")
