#!/usr/bin/env bash
# Finds or builds every tool that Sluice's local clusters need. Safe to run again: what is there already is kept.
#
#   tools/install.sh            everything
#   tools/install.sh machine    only what comes from Debian and rustup
#   tools/install.sh etcd helm  only these binaries (no Debian packages, no Rust target)
#
# Binaries go to ${SLUICE_CACHE:-$HOME/.cache/sluice}/tools/<name>-<version>-<key>/, where the key covers go.mod, go.sum,
# coredns/ and the build flags, so that branches with different pins share one cache; tools/bin/ links to the current ones.

set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${SLUICE_CACHE:-$HOME/.cache/sluice}/tools
wanted=("$@")

# In this order because etcd, the API server and the controller manager are all that the integration tests need.
# name | Go package | module whose version names the build
# One module, go.mod here, pins them all: what they share (client-go, gRPC and much more) is compiled once.
go_tools='
etcd|go.etcd.io/etcd/server/v3|go.etcd.io/etcd/server/v3
kube-apiserver|k8s.io/kubernetes/cmd/kube-apiserver|k8s.io/kubernetes
kube-controller-manager|k8s.io/kubernetes/cmd/kube-controller-manager|k8s.io/kubernetes
kube-scheduler|k8s.io/kubernetes/cmd/kube-scheduler|k8s.io/kubernetes
kubelet|k8s.io/kubernetes/cmd/kubelet|k8s.io/kubernetes
kube-proxy|k8s.io/kubernetes/cmd/kube-proxy|k8s.io/kubernetes
helm|helm.sh/helm/v4/cmd/helm|helm.sh/helm/v4
coredns|./coredns|github.com/coredns/coredns
kubectl|k8s.io/kubernetes/cmd/kubectl|k8s.io/kubernetes'

debian_packages=(containerd runc containernetworking-plugins iptables conntrack socat ethtool kmod iproute2
  busybox-static curl prometheus docker-registry lighttpd git)

kubectl_minor_min=33
rust_target=wasm32-wasip2
problems=()

say() { printf 'tools: %s\n' "$*"; }
problem() {
  problems+=("$*")
  printf 'tools: MISSING: %s\n' "$*" >&2
}
has() { command -v "$1" >/dev/null 2>&1; }

# Runs a command quietly; says how long it took, and shows the end of its log where it fails.
timed() {
  local what=$1 log start
  shift
  log=$(mktemp)
  start=$SECONDS
  say "$what …"
  if "$@" >"$log" 2>&1; then
    say "$what: done in $((SECONDS - start)) s"
    rm -f "$log"
  else
    tail -n 25 "$log" >&2
    problem "$what failed after $((SECONDS - start)) s (whole log: $log)"
    return 1
  fi
}

is_named() {
  local name
  for name in "${wanted[@]}"; do [ "$name" = "$1" ] && return 0; done
  return 1
}

is_wanted() { [ ${#wanted[@]} -eq 0 ] || is_named "$1"; }

# --- Go tools ---------------------------------------------------------------------------------------------------------

version_of() { # module path
  awk -v module="$1" '$1 == "require" && $2 == module { print $3 } $1 == module && $2 ~ /^v/ { print $2 }' \
    "$here/go.mod" | head -n 1
}

ldflags_of() { # module path, version
  case $1 in
    k8s.io/kubernetes) # Without these the API server calls itself v0.0.0-master and clients complain.
      local package=k8s.io/component-base/version minor=${2#v1.}
      printf -- '-s -w -X %s.gitVersion=%s -X %s.gitMajor=1 -X %s.gitMinor=%s' \
        $package "$2" $package $package "${minor%%.*}" ;;
    helm.sh/helm/v4) # It takes a cluster that it is not shown for one of 1.20.
      local package=helm.sh/helm/v4/pkg/chart kubernetes minor
      kubernetes=$(version_of k8s.io/kubernetes)
      minor=${kubernetes#v1.}
      printf -- '-s -w -X helm.sh/helm/v4/internal/version.version=%s' "$2"
      printf -- ' -X %s.k8sVersionMajor=1' $package/common $package/v2/lint/rules
      printf -- ' -X %s.k8sVersionMinor='"${minor%%.*}" $package/common $package/v2/lint/rules ;;
    *) printf -- '-s -w' ;;
  esac
}

go_build() ( # package, output, ldflags
  cd "$here" &&
    CGO_ENABLED=0 GOWORK=off GOFLAGS=-mod=readonly nice -n 5 go build -trimpath -ldflags "$3" -o "$2" "$1"
)

link() { # name, file
  [ "$(readlink "$cache/bin/$1" 2>/dev/null)" = "$2" ] || ln -sfn "$2" "$cache/bin/$1"
}

# A kubectl of the machine's own spares a build, if it is new enough for a 1.34 API server.
system_kubectl() {
  local minor
  [ -x /usr/bin/kubectl ] || return 1
  minor=$(/usr/bin/kubectl version --client -o json 2>/dev/null | sed -n 's/.*"gitVersion": "v1\.\([0-9]*\).*/\1/p')
  [ -n "$minor" ] && [ "$minor" -ge "$kubectl_minor_min" ]
}

go_tool() { # name, package, versioned module
  local name=$1 package=$2 version ldflags key folder
  if [ "$name" = kubectl ] && system_kubectl; then
    link kubectl /usr/bin/kubectl
    return
  fi
  version=$(version_of "$3")
  ldflags=$(ldflags_of "$3" "$version")
  key=$({ cat "$here/go.mod" "$here/go.sum" "$here/coredns/main.go"; printf '%s %s' "$package" "$ldflags"; } | sha256sum | cut -c 1-12)
  folder=$cache/$name-$version-$key
  if [ ! -x "$folder/$name" ]; then
    if ! has go; then
      problem "go, to build $name: https://go.dev/dl/ (1.26 or later; Debian: apt-get install golang-go from backports)"
      return
    fi
    mkdir -p "$folder"
    timed "build $name $version" go_build "$package" "$folder/.$name.part" "$ldflags" || return 0
    mv "$folder/.$name.part" "$folder/$name"
  fi
  link "$name" "$folder/$name"
}

all_go_tools() {
  local name package versioned
  mkdir -p "$cache/bin"
  while IFS='|' read -r name package versioned; do
    [ -n "$name" ] && is_wanted "$name" && go_tool "$name" "$package" "$versioned"
  done <<<"$go_tools"
  return 0
}

# --- Debian packages --------------------------------------------------------------------------------------------------

policy=/usr/sbin/policy-rc.d
policy_written=no
policy_restore() {
  if [ $policy_written = yes ]; then
    rm -f $policy
    [ ! -e $policy.before-sluice ] || mv $policy.before-sluice $policy
    policy_written=no
  fi
}

# The clusters start these programs themselves: a containerd or lighttpd of the machine's own would only be in the way.
policy_deny() {
  [ ! -e $policy ] || mv $policy $policy.before-sluice
  policy_written=yes
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod 755 $policy
}

debian_missing() {
  comm -23 <(printf '%s\n' "${debian_packages[@]}" | sort) \
    <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${debian_packages[@]}" 2>/dev/null |
      sed -n 's/^installed //p' | sort)
}

debian() {
  local missing
  if [ "$(uname -s)" != Linux ] || ! has dpkg-query || ! has apt-get; then
    problem "a Debian or Ubuntu machine for local clusters; install these yourself: ${debian_packages[*]} (or use kind)"
    return
  fi
  mapfile -t missing < <(debian_missing)
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" -ne 0 ]; then
    problem "Debian packages: sudo apt-get install --no-install-recommends ${missing[*]}"
    return
  fi
  policy_deny
  timed "apt-get update" apt-get update -q || true
  timed "install ${missing[*]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends "${missing[@]}" || true
  policy_restore
}

# --- Rust -------------------------------------------------------------------------------------------------------------

rust() {
  if ! has cargo; then
    problem "Rust: https://rustup.rs (the version is pinned in rust-toolchain.toml)"
    return
  fi
  [ ! -d "$(rustc --print sysroot)/lib/rustlib/$rust_target" ] || return 0
  if has rustup; then
    timed "rustup target add $rust_target" rustup target add "$rust_target" || true
  else
    problem "the Rust target $rust_target: install Rust with rustup, then rustup target add $rust_target"
  fi
}

# ----------------------------------------------------------------------------------------------------------------------

main() {
  mkdir -p "$cache"
  exec 9>"$cache/.lock"
  if has flock && ! flock -n 9; then
    say "another install is running; waiting for it"
    flock 9
  fi
  trap policy_restore EXIT
  if [ ${#wanted[@]} -eq 0 ] || is_named machine; then
    debian
    rust
  fi
  all_go_tools
  if [ ${#problems[@]} -gt 0 ]; then
    say "${#problems[@]} missing:" >&2
    printf '  - %s\n' "${problems[@]}" >&2
    exit 1
  fi
  if is_named machine; then say "the machine has what it needs"; else say "ready in $SECONDS s: $cache/bin"; fi
}

main
