#!/bin/sh
# Sees to it that Debian's Chromium is there for the tests of the status page, and prints its path.
set -eu

if ! command -v chromium >/dev/null 2>&1; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "installing chromium (once per machine) ..." >&2
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } >&2
    fi
fi
if ! command -v chromium; then
    echo "make e2e looks at the status page in Chromium: no 'chromium' on PATH." >&2
    echo "Install it (Debian: apt-get install chromium, as root) and run it again; 'make test' needs none." >&2
    exit 1
fi
