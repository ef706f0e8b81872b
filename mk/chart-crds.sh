#!/usr/bin/env bash
# Writes the chart's copies of the resource definitions: crds/yaml with the chart's condition and annotations around it.
#
#   mk/chart-crds.sh DIR    into this folder instead, to compare
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${1:-$root/charts/sluice/templates/crds}
mkdir -p "$out"
rm -f "$out"/*.yaml

for crd in "$root"/crds/yaml/*.yaml; do
  if grep -q '{{' "$crd"; then
    echo "$crd holds {{, which helm would read as a template" >&2
    exit 1
  fi
  {
    echo "{{- /* Generated from crds/yaml by \`make generate\`. */ -}}"
    echo "{{- if .Values.crds.install }}"
    # The first name at two spaces is that of the definition.
    awk '{ print }
      !done && /^  name: / {
        print "  labels:"
        print "    {{- include \"sluice.labels\" . | nindent 4 }}"
        print "  annotations:"
        print "    helm.sh/resource-policy: keep"
        done = 1
      }' "$crd"
    echo "{{- end }}"
  } >"$out/$(basename "$crd")"
done
