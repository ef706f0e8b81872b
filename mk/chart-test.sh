#!/usr/bin/env bash
# What can be said of the chart without a cluster: it lints, renders with every values file under charts/tests/accepted,
# and refuses each under charts/tests/refused for the reason that its first line gives. e2e/tests/chart_install.rs shows
# the rendered objects to an API server.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
chart=$root/charts/sluice
failures=0
fail() {
  printf 'chart: %s\n' "$*" >&2
  failures=$((failures + 1))
}

command -v helm >/dev/null || { echo "chart: no helm; \`make tools\` builds it" >&2; exit 1; }

generated=$(mktemp -d)
trap 'rm -rf "$generated"' EXIT
"$root/mk/chart-crds.sh" "$generated"
diff -r "$generated" "$chart/templates/crds" >&2 || fail "templates/crds is not what crds/yaml says: run make generate"

helm lint --strict --quiet "$chart" || fail "helm lint"

accepted=0
for values in "$root"/charts/tests/accepted/*.yaml "$chart"/values-*.yaml; do
  helm template sluice "$chart" -n sluice-system -f "$values" >/dev/null || fail "$values does not render"
  accepted=$((accepted + 1))
done

refused=0
for values in "$root"/charts/tests/refused/*.yaml; do
  reason=$(sed -n '1s/^# refused: //p' "$values")
  if [ -z "$reason" ]; then
    fail "$values: its first line must be \`# refused: PATTERN\`"
  elif message=$(helm template sluice "$chart" -n sluice-system -f "$values" 2>&1 >/dev/null); then
    fail "$values is accepted; it should be refused with $reason"
  elif ! grep -Eq -- "$reason" <<<"$message"; then
    fail "$values is refused with: $message"
  fi
  refused=$((refused + 1))
done

[ $failures -eq 0 ] || exit 1
echo "chart: lints, renders with $accepted values files, refuses $refused"
