#!/bin/sh
# Fails where a generated file in the repository is not what its command makes of its sources.
set -eu
files="requirements.txt deploy/local/pins/uv/requirements.txt operator/requirements.txt workers/requirements.txt
    deploy/kind/pins/go/requirements.txt deploy/kind/pins/helm/requirements.txt
    asyncapi.yaml deploy/helm/wallet-manager/README.md deploy/helm/wallet-manager/files/dashboard.json"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for file in $files; do
    mkdir -p "$work/$(dirname "$file")"
    cp "$file" "$work/$file"
done
make --no-print-directory --silent generated lock
for file in $files; do
    diff -u "$work/$file" "$file" || {
        echo "$file is not current: commit what 'make generated lock' has just made" >&2
        exit 1
    }
done
