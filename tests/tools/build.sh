#!/bin/sh
# Builds the real parts that the end-to-end lane runs against (etcd, kube-apiserver,
# kube-controller-manager, kube-scheduler, kwok), and helm, which charts are compared with, and
# prints the folder that holds them.
#
# Each part is a Go tool of the go.mod beside this script. A part is built once per machine:
# its folder in the cache is named by a hash of its go.mod, its go.sum and the Go version.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/flotilla/tools"

if ! command -v go >/dev/null 2>&1; then
    echo "make e2e needs Go 1.26 or newer to build etcd, kube-apiserver, kwok and helm: no 'go' on PATH." >&2
    echo "Install Go (golang-go, or the newest from its own site) and run it again; 'make test' needs no Go." >&2
    exit 1
fi

mkdir -p "$cache"
exec 9>"$cache/.lock"
command -v flock >/dev/null 2>&1 && flock 9

# part MODULE_FOLDER LDFLAGS PACKAGE... : builds each package of one module, unless cached.
part() {
    module=$1 flags=$2
    shift 2
    key=$( (cd "$here/$module" && cat go.mod go.sum && go env GOVERSION GOARCH) | sha256sum | cut -c1-16)
    target="$cache/$module-$key"
    if [ ! -d "$target" ]; then
        echo "building $module (once per machine, several minutes): $*" >&2
        work=$(mktemp -d "$cache/.build-XXXXXX")
        for package in "$@"; do
            name=$(basename "$package")
            [ "$name" = v3 ] && name=etcd
            (cd "$here/$module" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w $flags" -o "$work/$name" "$package")
        done
        if [ "$module" = kwok ]; then
            # kwok does nothing without stages; its module brings ones that make nodes, pods and volumes Ready at once.
            stages=$(cd "$here/kwok" && go list -m -f '{{.Dir}}' sigs.k8s.io/kwok)/kustomize/stage
            for stage in "$stages"/node/fast "$stages"/node/heartbeat-with-lease "$stages"/pod/fast "$stages"/volume/fast; do
                for file in "$stage"/*.yaml; do
                    grep -q "^kind: Stage" "$file" || continue
                    cat "$file"
                    printf '\n---\n'
                done
            done >"$work/kwok-stages.yaml"
        fi
        mv "$work" "$target"
    fi
    # Each link is replaced at once: another checkout's tests may be starting these programs at this moment.
    for file in "$target"/*; do
        ln -sf "$file" "$cache/.link"
        mv -f "$cache/.link" "$cache/bin/$(basename "$file")"
    done
}

mkdir -p "$cache/bin"
part etcd "" go.etcd.io/etcd/server/v3
part kwok "" sigs.k8s.io/kwok/cmd/kwok
part kubernetes "-X k8s.io/component-base/version.gitVersion=v1.36.3" \
    k8s.io/kubernetes/cmd/kube-apiserver \
    k8s.io/kubernetes/cmd/kube-controller-manager \
    k8s.io/kubernetes/cmd/kube-scheduler
part helm "" helm.sh/helm/v4/cmd/helm

echo "$cache/bin"
