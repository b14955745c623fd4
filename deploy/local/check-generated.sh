#!/bin/sh
# Fails where a generated file in the repository is not what its command makes of its sources.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp requirements.txt asyncapi.yaml "$work"
cp deploy/local/pins/uv/requirements.txt "$work/uv.txt"
make --no-print-directory --silent generated lock
for pair in requirements.txt:requirements.txt asyncapi.yaml:asyncapi.yaml deploy/local/pins/uv/requirements.txt:uv.txt; do
    diff -u "$work/${pair#*:}" "${pair%:*}" || {
        echo "${pair%:*} is not current: commit what 'make generated lock' has just made" >&2
        exit 1
    }
done
