#!/usr/bin/env bash
# Makes the shared target folders this clone's own. Cargo tells stale from fresh by modification times, which say
# nothing between two clones: what another clone compiled is thrown away, what it got from registries stays.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# own TARGET MANIFEST PROFILE…
own() {
  local target="$1" manifest="$2" profile owner
  shift 2
  owner="$(cat "$target/.clone" 2>/dev/null || true)"
  [ "$owner" != "$PWD" ] || return 0
  if [ -d "$target/release" ] || [ -d "$target/wasm32-wasip2" ]; then
    echo "target: $target was used by ${owner:-an unknown clone}; compiling our own crates anew"
    local clean=(cargo clean --quiet --workspace --target-dir "$target" --manifest-path "$manifest")
    for profile in "$@"; do "${clean[@]}" --profile "$profile"; done
    "${clean[@]}" --release --target wasm32-wasip2
  fi
  mkdir -p "$target"
  echo "$PWD" >"$target/.clone"
}

case "${1:-}" in
  workspace) own "$CARGO_TARGET_DIR" Cargo.toml release dist ;;
  examples) own "$CARGO_TARGET_DIR" examples/Cargo.toml release ;;
  *) echo "usage: $0 workspace|examples" >&2; exit 2 ;;
esac
