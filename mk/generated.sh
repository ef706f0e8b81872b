#!/usr/bin/env bash
# Generated files are those of the types that they come from. (chart-test compares the chart's copies.)
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
cargo run --release --quiet --locked -p sluice-crds -- "$fresh"
diff -r "$fresh" crds/yaml || { echo "generated: crds/yaml is out of date: run make generate" >&2; exit 1; }
echo "generated: crds/yaml is fresh"
