"""A run for the other benchmarks: a corpus, and round 0 up to its pseudo-labels.

    python benchmarks/small_run.py OUT [--videos FOLDER] [--preset digits] [--clips 600] [--set video.frames=8 ...]
        [--stages shard init ...]

Without --videos the corpus is audio-visual digits. What is there already is kept. `--stages none` makes the videos and
the run's configuration only.
"""

import argparse
from pathlib import Path

import yaml

from shards.store.files import write_text
from xdc_core.config.load import FILE_NAME, load_preset, parse_config
from xdc_core.config.write import commented_yaml
from xdc_core.graph.run_stage import run_stage
from xdc_core.graph.stages import round_nodes, setup_nodes
from xdc_core.runs.run import open_run


def main() -> None:
    """Make the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--videos", type=Path)
    parser.add_argument("--preset", default="digits")
    parser.add_argument("--clips", type=int, default=600, help="of the digits")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.NAME=VALUE")
    parser.add_argument("--stages", nargs="+", default=["shard", "init", "extract", "cluster", "label"])
    given = parser.parse_args()
    out = given.out.resolve()
    videos = given.videos.resolve() if given.videos else digits(out, given.clips)
    values = parse_config(load_preset(given.preset), given.preset).model_dump()
    values["corpus"] |= {"path": str(out / "corpus"), "videos": str(videos)}
    for change in given.set:
        name, value = change.split("=", 1)
        *section, key = name.split(".", 1)
        (values[section[0]] if section else values)[key] = yaml.safe_load(value)
    write_text(out / FILE_NAME, commented_yaml(parse_config(values, "--set")))
    run = open_run(out)
    for node in (*setup_nodes(run.config), *round_nodes(run.config, 0)):
        if node.stage in given.stages:
            record = run_stage(run, node)
            print(f"{node}: {record.rows} rows, {record.seconds:.1f} s", flush=True)


def digits(out: Path, clips: int) -> Path:
    """The manifest of audio-visual digits."""
    from shards.digits.corpus import write_digits
    from shards.digits.settings import DigitsSettings

    return write_digits(out / "media", DigitsSettings(clips=clips, test_clips=0))


if __name__ == "__main__":
    main()
