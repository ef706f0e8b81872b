#!/usr/bin/env bash
# The arrows of docs/architecture.md, read from cargo. Cargo refuses cycles; this refuses the wrong direction.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
problems=0
problem() {
  printf 'layers: %s\n' "$*" >&2
  problems=$((problems + 1))
}

# Direct dependencies, those of tests and build scripts too.
direct() { cargo tree --locked --package "$1" --edges normal,build,dev --depth 1 --prefix none --format '{p}' | tail -n +2 | cut -d ' ' -f 1 | sort -u; }
# All that is linked into it, with its own choice of features.
linked() { (cd "$(folder_of "$1")" && cargo tree --locked --edges normal,no-proc-macro --prefix none --format '{p}') | tail -n +2 | cut -d ' ' -f 1 | sort -u; }

folder_of() {
  local manifest
  manifest=$(grep -l "^name = \"$1\"" Cargo.toml -- */Cargo.toml */*/Cargo.toml)
  dirname "$manifest"
}

# crate | crates of ours that it may depend on
arrows='
sluice-config|
sluice-rollout|
sluice-crds|sluice-config
sluice-egress|sluice-config
sluice-worker|sluice-config sluice-egress
sluice-chain|sluice-config sluice-egress sluice-worker
sluice-dataplane|sluice-config sluice-crds sluice-egress sluice-worker sluice-chain
sluice-operator|sluice-config sluice-crds sluice-rollout sluice-worker
sluice-e2e|sluice-config sluice-crds'

checked=()
while IFS='|' read -r crate allowed; do
  [ -n "$crate" ] || continue
  checked+=("$crate")
  for dependency in $(direct "$crate" | grep '^sluice-' || true); do
    [[ " $allowed " == *" $dependency "* ]] || problem "$crate depends on $dependency; it may on: ${allowed:-none of ours}"
  done
done <<<"$arrows"

for crate in $(cargo tree --locked --workspace --depth 0 --prefix none --format '{p}' | cut -d ' ' -f 1 | sort -u); do
  [[ " ${checked[*]} " == *" $crate "* ]] || problem "$crate is new: say in mk/layers.sh and docs/architecture.md what it may depend on"
done

# crate | what is never linked into it | why
never='
sluice-config|tokio kube kube-client hyper reqwest rustix|wire types do no I/O
sluice-crds|tokio kube-client kube-runtime hyper reqwest|types have no client
sluice-operator|wasmtime cranelift-codegen|the operator checks components, it never runs them
sluice-worker|kube kube-client reqwest|workers know no cluster
sluice-chain|kube kube-client reqwest|the chain knows no cluster'

while IFS='|' read -r crate banned why; do
  [ -n "$crate" ] || continue
  found=$(linked "$crate")
  for name in $banned; do
    ! grep -qx "$name" <<<"$found" || problem "$crate links $name: $why"
  done
done <<<"$never"

# The planner decides from what it is given: no clock, no randomness, no I/O, so nothing that could have them.
pure='thiserror'
for name in $(linked sluice-rollout); do
  [[ " $pure " == *" $name "* ]] || problem "sluice-rollout links $name: the planner is pure; give it values instead"
done

[ $problems -eq 0 ] || exit 1
echo "layers: ${#checked[@]} crates, every arrow points the right way"
