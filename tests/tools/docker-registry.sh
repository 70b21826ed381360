#!/bin/sh
# Sees to it that Debian's docker-registry is there for the tests of OCI registries, and prints its path.
set -eu

if ! command -v docker-registry >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing docker-registry (once per machine) ..." >&2
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends docker-registry; } >&2
    fi
fi
if ! command -v docker-registry; then
    echo "make e2e fetches charts from a real OCI registry: no 'docker-registry' on PATH." >&2
    echo "Install it (Debian: apt-get install docker-registry, as root) and run it again; 'make test' needs none." >&2
    exit 1
fi
