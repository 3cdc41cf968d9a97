#!/bin/sh
# Make the work pool `local`, all deployments, and the automation for lost flow runs at the server of PREFECT_API_URL, with
# the installed package. Safe to repeat. In the image this is `xdc-setup`; else: sh PROJECT/deploy/setup.sh.
set -eu
: "${PREFECT_API_URL:?is not set: the address of the Prefect server, such as http://127.0.0.1:4200/api}"
exec xdc deploy "$@"
