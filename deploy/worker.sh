#!/bin/bash
# A Prefect worker of the work pool `local` that ends its flow run in progress after a checkpoint, when it is to end itself
# (SIGTERM, Ctrl-C). In the image this is `xdc-worker`, which `docker compose stop` ends in this way. On a node of Slurm it
# is a batch script: in the folder of the runs, which all nodes see, and in the environment that has `prefect` and `xdc`:
#   export PREFECT_API_URL=http://SERVER:4200/api
#   sbatch --partition=gpu --gpus=1 PROJECT/deploy/worker.sh
#   sbatch --array=1-7%1 --partition=gpu --gpus=1 PROJECT/deploy/worker.sh     # seven, one after another
# Further words go to `prefect worker start`.
#SBATCH --job-name=xdc-worker
#SBATCH --time=1-00:00:00
#SBATCH --cpus-per-task=8
#SBATCH --output=xdc-worker-%j.log
# SIGTERM for this script alone, two minutes before the time limit.
#SBATCH --signal=B:TERM@120
set -u
: "${PREFECT_API_URL:?is not set: the address of the Prefect server, such as http://SERVER:4200/api}"

set -m  # Else the worker would be started with SIGINT ignored, which it sends itself to end.
prefect worker start --pool local --limit 1 ${SLURM_JOB_ID:+--name "slurm-$SLURM_JOB_ID"} "$@" &
worker=$!

# Prefect's worker does not pass a signal on. So first the process of the flow run: its trainings write a checkpoint, and it
# reports itself as crashed. The same flow run again, or `prefect flow-run retry`, goes on from there. No `ps`: the image
# has none.
stop() {
  for status in $(grep -lsx "PPid:[[:space:]]*$worker" /proc/[0-9]*/status); do
    process=${status//[^0-9]/}
    flows="${flows-} $process"
    kill -TERM "$process"
  done
  for process in ${flows-}; do
    while kill -0 "$process" 2> /dev/null; do sleep 0.2; done
  done
  kill -TERM "$worker"
  for ((wait = 0; wait < 50; wait++)); do
    kill -0 "$worker" 2> /dev/null || return
    sleep 0.2
  done
  kill -KILL "$worker"  # This script itself was started with SIGINT ignored, as by a shell in the background.
}
trap stop TERM INT
while kill -0 "$worker" 2> /dev/null; do wait "$worker"; done
