#!/usr/bin/env bash
# Plants each bug of operator/rollout/tests/mutations in a copy of the planner, and expects the model check to find it:
# in the setting and by the promise that the patch names; or, where it names scripts, a transcript to differ. A patch that
# does not apply any more, a bug that survives, and one that something else finds all fail.
#
#   mk/mutations.sh [WORD…]     only the patches whose name contains one of these
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
crate=operator/rollout
work=${CARGO_TARGET_DIR:-$root/target}/mutations
copy=$work/workspace
export CARGO_TARGET_DIR=$work/target
# Compiling takes longer than finding the bug.
export CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_OPT_LEVEL=0
log=$work/log

# A workspace with nothing else in it: the same versions.
workspace() {
  mkdir -p "$copy/operator"
  awk '/^members = \[/ { print "members = [\"operator/rollout\"]"; skip = 1 } !skip { print } /^\]/ { skip = 0 }' \
    Cargo.toml >"$copy/Cargo.toml"
  printf '\n[profile.release.package."*"]\nopt-level = 3\n' >>"$copy/Cargo.toml"
  cp Cargo.lock rust-toolchain.toml "$copy/"
  rm -rf "${copy:?}/$crate"
  cp -r "$crate" "$copy/$crate"
}

# What the checker says of the copy as it is, in one setting; or the scripts, without those that are made at random.
check() {
  local proof=(--test model_check -- "$1")
  [ "$1" != scripts ] || proof=(--test scripts every_script)
  (cd "$copy" && cargo test --quiet --release --offline -p sluice-rollout "${proof[@]}") >"$log" 2>&1
}

# The promises that do not hold, the transcripts that differ, or what the simulated cluster never allows, without the unit that
# did it. What does not compile is no bug that anybody caught.
caught_by() {
  sed -nE -e 's/^model: [^:]*: (does not hold|never comes up): //p' \
    -e '/panicked at .*\/sim\/invariants\.rs:/{n;s/^[^ ]+ (.*)$/never: \1/p}' \
    -e 's/^--- .*\/scripts\/(.*)\.transcript$/transcript \1/p' "$log" | sort -u
}

wanted() {
  [ $# -gt 1 ] || return 0
  local name=$1 word
  shift
  for word in "$@"; do [[ $name == *"$word"* ]] && return 0; done
  return 1
}

problems=0
problem() {
  printf '%-34s %s\n' "$1" "$2" >&2
  problems=$((problems + 1))
}

printf '%-34s %9s %8s  %s\n' mutation states seconds 'caught by'
for patch in "$root/$crate"/tests/mutations/*.patch; do
  name=$(basename "$patch" .patch)
  wanted "$name" "$@" || continue
  workspace
  if ! (cd "$copy/$crate" && patch --quiet --forward --fuzz=0 -p1 <"$patch") >"$log" 2>&1; then
    problem "$name" "does not apply any more: $(head -1 "$log")"
    continue
  fi
  began=$SECONDS
  if check "$(sed -n 's/^In: //p' "$patch")"; then
    problem "$name" "SURVIVES: $(head -1 "$patch")"
    continue
  fi
  caught=$(caught_by)
  if [ -z "$caught" ]; then
    problem "$name" "fails for another reason, see $work/$name.log: $(grep -m1 -E '^error' "$log" || true)"
    cp "$log" "$work/$name.log"
    continue
  fi
  states=$(sed -nE 's/^model: ([0-9]+) states in all$/\1/p' "$log")
  printf '%-34s %9s %8s  %s\n' "$name" "$states" $((SECONDS - began)) "$(head -1 <<<"$caught")"
  expected=$(sed -n 's/^Caught by: //p' "$patch")
  grep -qxF "$expected" <<<"$caught" || problem "$name" "should be caught by: $expected"
done

[ $problems -eq 0 ] || {
  echo "mutations: $problems problems" >&2
  exit 1
}
