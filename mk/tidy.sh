#!/usr/bin/env bash
# House rules that no other tool knows: short files, each of which says what it is for; links in documents that lead
# somewhere.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
lines_max=500
problems=0
problem() {
  printf 'tidy: %s\n' "$*" >&2
  problems=$((problems + 1))
}

mapfile -t sources < <(git ls-files --cached --others --exclude-standard -- '*.rs')
for file in "${sources[@]}"; do
  [ -f "$file" ] || continue
  lines=$(wc -l <"$file")
  [ "$lines" -le $lines_max ] || problem "$file has $lines lines, more than $lines_max: split it"
  # Attributes of the crate may stand before its documentation.
  first=$(grep -v -m1 -E '^(#!\[.*|)$' "$file" || true)
  case $first in
    '//!'*) ;;
    # What include! takes is no module and cannot have //!.
    '//'*) git grep --untracked -qF "$(basename "$file")\")" -- '*.rs' || problem "$file begins with //, not //!" ;;
    *) problem "$file does not begin with //! and its single job" ;;
  esac
done

mapfile -t documents < <(git ls-files --cached --others --exclude-standard -- '*.md')
for file in "${documents[@]}"; do
  [ -f "$file" ] || continue
  while read -r link; do
    case $link in http://* | https://* | mailto:* | '#'*) continue ;; esac
    [ -e "$(dirname "$file")/${link%%#*}" ] || problem "$file links to $link, which is not there"
  done < <(awk '/^```/ { code = !code; next } !code' "$file" | grep -oE '\]\([^) ]+\)' | sed 's/^](//; s/)$//' || true)
done

# Every promise has its script, and every script its promise.
promises=docs/semantics.md
scripts=operator/rollout/tests/scripts
sentences=$(grep -v '^\[.*\]: ' $promises)
while read -r number; do
  grep -q "^\\[$number\\]: " $promises || problem "$promises names script $number, and does not say which that is"
done < <(grep -oE '\[[0-9]{2}[a-z]?\]' <<<"$sentences" | tr -d '[]' | sort -u)
while read -r number script; do
  [ -f "docs/$script" ] || problem "$promises leads to $script, which is not there"
  grep -qF "[$number]" <<<"$sentences" || problem "$promises has no sentence for script $number"
done < <(sed -nE 's/^\[([0-9]{2}[a-z]?)\]: (.*)$/\1 \2/p' $promises)
for script in "$scripts"/*.script; do
  grep -qF "$script" $promises || problem "$script is behind no sentence of $promises"
done

[ $problems -eq 0 ] || exit 1
echo "tidy: ${#sources[@]} Rust files, ${#documents[@]} documents"
