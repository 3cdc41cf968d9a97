#!/usr/bin/env bash
# Learn from a folder of videos with sound, then find the clips that look like one of them, and those that sound as it looks.
#   examples/train_and_search.sh VIDEOS QUERY [RUN]
# A second call goes on where the first one ended, and does nothing twice.
set -euo pipefail
videos=$1 query=$2 run=${3:-runs/example}

xdc init "$run" --videos "$videos" --keep
xdc run "$run"
xdc search "$run" "$query" --by picture --html "$run/alike.html"
xdc search "$run" "$query" --by picture --in sound --html "$run/sounds-as-it-looks.html"
