#!/usr/bin/env bash
# Leave out near-duplicates, keep at most so many clips of every cluster, and learn again from these as RUN did.
#   examples/curate_and_train_again.sh RUN PER_CLUSTER AGAIN
set -euo pipefail
run=$1 per_cluster=$2 again=$3

xdc duplicates "$run" --out "$run/duplicates"
xdc curate "$run" --per-cluster "$per_cluster" --keep "$run/duplicates/keep.parquet" --to "$again.csv"

# The settings of RUN with other clips. Other relative paths in them (weights, data sets) are of RUN's folder: correct them.
python - "$run/xdc.yaml" "$again" <<'END'
import sys
from pathlib import Path

import yaml

first, again = map(Path, sys.argv[1:])
settings = yaml.safe_load(first.read_text())
settings.setdefault("corpus", {}).update(path="corpus", videos=f"../{again.name}.csv", layout=None, label_from_folder=False)
again.mkdir()
(again / "xdc.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
END
xdc run "$again"
