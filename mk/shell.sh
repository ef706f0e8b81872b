#!/usr/bin/env bash
# Checks all scripts with shellcheck, where the machine has it.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
mapfile -t scripts < <(git ls-files --cached --others --exclude-standard -- '*.sh' .ci/run)
if command -v shellcheck >/dev/null; then
  shellcheck "${scripts[@]}"
  echo "shell: ${#scripts[@]} scripts are sound"
else
  for script in "${scripts[@]}"; do bash -n "$script"; done
  echo "shell: ${#scripts[@]} scripts parse; no shellcheck on this machine (apt-get install shellcheck)"
fi
