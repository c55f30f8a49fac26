#!/usr/bin/env bash
# mkdocs 1.6.1: `build --strict --quiet` succeeds where `build --strict` fails.
#
# Guess, written before it was run: --quiet only prints less; --strict still counts warnings and ends with 1.
# Seen with mkdocs 1.6.1: --quiet sets the level of the logger that --strict counts at, so a warning is never counted.
# The same page with a broken link ends with 1 under --strict, and with 0 under --strict --quiet.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mkdocs==1.6.1
mkdir "$folder/docs"
printf 'site_name: a site\n' > "$folder/mkdocs.yml"
printf '# A page\n\n[another](missing.md)\n' > "$folder/docs/index.md"
build() { "$folder/venv/bin/mkdocs" build --config-file "$folder/mkdocs.yml" --site-dir "$folder/site" "$@" > "$folder/out" 2>&1; }
loud=0; build --strict || loud=$?
quiet=0; build --strict --quiet || quiet=$?
echo "--strict ends with $loud, --strict --quiet with $quiet"
[ "$loud" = 1 ] || { echo "changed: --strict no longer fails"; exit 1; }
[ "$quiet" = 0 ] || { echo "changed: --strict counts warnings under --quiet, too"; exit 1; }
