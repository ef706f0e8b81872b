#!/usr/bin/env bash
# Builds every guest into ${SLUICE_CACHE:-~/.cache/sluice}/guests under fixed names. Quick when nothing changed.
set -euo pipefail
cd "$(dirname "$0")"

cache="${SLUICE_CACHE:-$HOME/.cache/sluice}"
export CARGO_TARGET_DIR="$cache/target-guests"
# 32 KiB of stack instead of 1 MiB: less to reset for each fresh instance (docs: what a step costs).
export RUSTFLAGS="-C link-arg=-zstack-size=32768"
guests="$cache/guests"
mkdir -p "$guests"

# install NAME CRATE: copies only what changed, so that whoever watches times sees no change.
install_guest() {
  local built="$CARGO_TARGET_DIR/wasm32-wasip2/release/${2//-/_}.wasm"
  cmp -s "$built" "$guests/$1.wasm" || { cp "$built" "$guests/.$1.$$" && mv "$guests/.$1.$$" "$guests/$1.wasm"; }
}

build() { cargo build --quiet --release --target wasm32-wasip2 --locked "$@"; }

# One build at a time: several checkouts may share the cache.
exec 9>"$guests/.lock"
flock 9
../mk/own-target.sh examples

guests_plain=(request-id redirects maintenance ab-test jwt links faults ungranted step-filter step-proxy step-handler)
for filter in security-headers request-id redirects maintenance ab-test jwt links rate-limit faults; do guests_plain+=("filter-$filter"); done
for handler in request-id hello faults; do guests_plain+=("handler-$handler"); done
build "${guests_plain[@]/#/-p}"
for crate in "${guests_plain[@]}"; do install_guest "$crate" "$crate"; done
for version in v1 v2 v3; do
  for crate in security-headers filter-security-headers; do
    build -p "$crate" --features "$version"
    install_guest "$crate-$version" "$crate"
  done
done
