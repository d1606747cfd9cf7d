#!/usr/bin/env bash
# Make the published card of the icons again, in data_cards/icons or in the folder that is given:
#
#   pip install -e '.[cards,icons]'
#   bash data_cards/icons.sh [FOLDER] [SETS]
#
# SETS, such as `pinned`, takes those sets only; `python -m training.icons --help` explains it. ICONS names a folder that
# holds the pool, or will hold it. Cost: 5 minutes of two cores and 600 MB; tests/card/test_icons_card.py does it with 15
# sets and compares.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$(realpath -m "${1:-$here/data_cards/icons}")
run=$(mktemp -d)
trap 'rm -rf "$run"' EXIT
pool=${ICONS:-$run/pool}
cd "$here"

export SOURCE_DATE_EPOCH=1767225600 # the card's date is 2026-01-01, whenever it is made
python() { "${PYTHON:-python3}" "$@"; }

[ -f "$pool/sets.tsv" ] || python -m training.icons "$pool" ${2:+--sets "$2"}
python -m metaclip curate "$pool/train" --out "$run/icons"
rm -f "$out/curated.npy" "$out/sets.tsv" # put there below, and of no card
python -m metaclip card "$run/icons" --out "$out" --name "Icons" --license apache-2.0 --no-look-ups \
  --contact "the project's issue tracker" --classes "$here/data_cards/cifar10.txt"
cp "$run/icons/curated.npy" "$pool/sets.tsv" "$out/"
