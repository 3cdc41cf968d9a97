#!/bin/sh
# Make the work pool `local`, all deployments, and the automation for lost flow runs at the server of PREFECT_API_URL.
# Safe to repeat. In the image this is `xdc-setup`; else: sh PROJECT/deploy/setup.sh.
set -eu
files=$(dirname "$0")/..
[ -e "$files/prefect.yaml" ] || files=/opt/xdc/share
: "${PREFECT_API_URL:?is not set: the address of the Prefect server, such as http://127.0.0.1:4200/api}"
prefect work-pool inspect local > /dev/null 2>&1 || prefect work-pool create local --type process
prefect --no-prompt deploy --all --prefect-file "$files/prefect.yaml"
prefect automation inspect "crash xdc's zombies" > /dev/null 2>&1 ||
  prefect automation create --from-file "$files/prefect-automation.yaml"
