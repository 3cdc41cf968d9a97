"""The `xdc` command. Imports what a subcommand needs when it runs, so that --help answers at once.

Exit codes: 0 done; 1 a stage failed (what it had finished is kept); 2 wrong usage, configuration or input; 3 another
process is building the same directory (`stage`, `eval`), or there is work to do (`status --check`), or a disk is
too small (`plan --check`); 130 interrupted.
"""

import typer

from flows.cli.general import general
from flows.cli.inspecting import commands as inspecting
from flows.cli.machine import commands as machine
from flows.cli.running import commands as running
from flows.cli.running.study import compare
from flows.cli.using import commands as using

app = typer.Typer(
    name="xdc",
    help="Cross-Modal Deep Clustering: raw videos with sound go in, encoders of pictures and of sound come out.\n\n"
    "Start with: xdc init runs/first --videos FOLDER, then: xdc run runs/first",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.callback()(general)

# In the order in which `xdc --help` lists them.
app.command()(running.init)
app.command()(running.digits)
app.command()(inspecting.plan)
app.command()(running.run)
app.command("round")(running.one_round)
app.command()(running.stage)
app.command()(inspecting.status)
app.command()(inspecting.verify)
app.command()(running.recut)
app.command()(running.index)
app.command()(running.clean)
app.command()(inspecting.report)
app.command()(inspecting.runs)
app.command()(inspecting.diff)
app.command()(inspecting.track)
app.command("eval")(running.evaluate)
app.command()(compare)
app.command()(using.export)
app.command()(using.embed)
app.command()(using.assign)
app.command()(using.search)
app.command()(using.duplicates)
app.command()(using.curate)
app.command("map")(using.map_run)
app.command()(machine.doctor)
app.command()(machine.deploy)


def main() -> None:
    """Run the command; the entry point."""
    app()
