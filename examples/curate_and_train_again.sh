#!/usr/bin/env bash
# Leave out near-duplicates, keep the same number of clips of every cluster, and learn again from these.
#   examples/curate_and_train_again.sh RUN PER_CLUSTER AGAIN
set -euo pipefail
run=$1 per_cluster=$2 again=$3

xdc duplicates "$run" --out "$run/duplicates"
xdc curate "$run" --per-cluster "$per_cluster" --keep "$run/duplicates/keep.parquet" --to "$again.csv"
xdc init "$again" --videos "$again.csv" --keep
xdc run "$again"
