#!/bin/sh
# Sees to it that Debian's Prometheus is there for the tests of gates and alerts, and prints its path.
set -eu

if ! command -v prometheus >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing prometheus (once per machine) ..." >&2
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus; } >&2
    fi
fi
if ! command -v prometheus; then
    echo "make e2e asks a real Prometheus at gates: no 'prometheus' on PATH." >&2
    echo "Install it (Debian: apt-get install prometheus, as root) and run it again; 'make test' needs none." >&2
    exit 1
fi
