#!/bin/bash
# Makes the Debian base image that the project's Dockerfiles start from, for a host that reaches no container registry.
# It carries the host's certificate bundle, so that pip and npm inside it trust what the host trusts.
set -euo pipefail
image=$1

if docker image inspect "$image" >/dev/null 2>&1; then exit 0; fi
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$root" >/dev/null
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/usr/share/{doc,man,locale}/*
bundle=/etc/ssl/certs/ca-certificates.crt
tar -C "$root" -c . | docker import \
  --change "ENV PIP_CERT=$bundle SSL_CERT_FILE=$bundle REQUESTS_CA_BUNDLE=$bundle NODE_EXTRA_CA_CERTS=$bundle" \
  - "$image" >/dev/null
echo "Made $image."
