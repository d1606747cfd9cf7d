#!/usr/bin/env bash
# Make the published card of texts in many languages again, in data_cards/worldwide or in the folder that is given:
#
#   pip install -e '.[cards,crawl]'
#   METACLIP_DATA=... bash data_cards/worldwide.sh [FOLDER] [LIST]
#
# METACLIP_DATA holds wat/web-pages.warc.wat.gz and images/xm3600_128px.zip. The card's list are the entries that these texts
# match, 25,133 of 10,350,369, and the first entry of each other language, so that every text is routed as with the whole
# list. They are in found.parquet of the published card; LIST, the file that `metaclip build metadata/worldwide.toml` makes,
# finds them again. Cost: 5 seconds; with LIST half a minute.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$(realpath -m "${1:-$here/data_cards/worldwide}")
list=${2:+$(realpath "$2")}
run=$(mktemp -d)
trap 'rm -rf "$run"' EXIT
cd "$here"

export SOURCE_DATE_EPOCH=1767225600 # the card's date is 2026-01-01, whenever it is made
python() { "${PYTHON:-python3}" "$@"; }
curate() { python -m metaclip curate "$run/pool/*/*.parquet" --fold-case --unspaced-scripts fixed --t 20 "$@"; }

mkdir "$run/pool"
python -m tests.bench.bench_worldwide - --rounds 0 --pool "$run/pool"
if [ -n "$list" ]; then
  curate --metadata "$list" --out "$run/whole"
  python - "$list" "$run" << 'END'
import sys
import numpy as np
import pyarrow.parquet as pq

entries, counts = pq.read_table(sys.argv[1]), pq.read_table(f"{sys.argv[2]}/whole/entries.parquet", columns=["count"])
language = entries["language"].to_numpy()
# A language without an entry would be another one's, or "other": it keeps its first entry.
first = np.concatenate([[True], language[1:] != language[:-1]])
pq.write_table(entries.filter(first | (counts["count"].to_numpy() > 0)), f"{sys.argv[2]}/found.parquet")
END
else
  cp "$here/data_cards/worldwide/found.parquet" "$run/found.parquet"
fi
curate --metadata "$run/found.parquet" --out "$run/found"
rm -f "$out/found.parquet" # put there below, and of no card
python -m metaclip card "$run/found" --out "$out" --name "Web pages and photographs in many languages" --license cc-by-sa-4.0 \
  --no-look-ups --no-samples --contact "the project's issue tracker"
cp "$run/found.parquet" "$out/"
