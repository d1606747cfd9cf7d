#!/usr/bin/env bash
# Make the published card of the toy pool again, in data_cards/toy or in the folder that is given:
#
#   pip install -e '.[cards]'
#   bash data_cards/toy.sh [FOLDER]
#
# Cost: 15 seconds. tests/card/test_published.py does it and compares.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${1:-$here/data_cards/toy}
run=$(mktemp -d)
trap 'rm -rf "$run"' EXIT

export SOURCE_DATE_EPOCH=1767225600 # the card's date is 2026-01-01, whenever it is made
metaclip() { "${PYTHON:-python3}" -m metaclip "$@"; }

metaclip curate "$here/curation/toy_pool.jsonl" --recipe "$here/curation/toy.toml" --with-text --out "$run/toy"
metaclip card "$run/toy" --out "$out" --name "Toy pool" --license apache-2.0 --contact "the project's issue tracker" \
  --classes "$here/data_cards/cifar10.txt"
