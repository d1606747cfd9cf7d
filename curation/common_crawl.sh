#!/usr/bin/env bash
# One crawl of Common Crawl to a pool:
#
#   bash curation/common_crawl.sh CRAWL POOL [FLAGS OF metaclip extract]
#   bash curation/common_crawl.sh CC-MAIN-2024-10 pool/ --sample 100
#
# The list of the crawl's files is fetched once and stored beside the pool. For speed, run it on AWS in us-east-1, with
# --prefix s3://commoncrawl/ (pip install -e '.[crawl,s3]'). If it is interrupted, the same command continues.
# METACLIP is another command to run instead of metaclip, CRAWL_SERVER another server.
set -euo pipefail

if [ $# -lt 2 ]; then
  sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
crawl=$1 pool=${2%/}
shift 2
here=$(dirname "${BASH_SOURCE[0]}")
list=$pool.$crawl.wat.paths.gz
agent="metaclip (reads web crawls; curl)"

if [ ! -s "$list" ]; then
  mkdir -p "$(dirname "$list")"
  curl --fail --silent --show-error --location --retry 8 --user-agent "$agent" --output "$list.$$.tmp" \
    "${CRAWL_SERVER:-https://data.commoncrawl.org}/crawl-data/$crawl/wat.paths.gz"
  mv "$list.$$.tmp" "$list"
fi
# shellcheck disable=SC2086 # METACLIP may be several words
exec ${METACLIP:-metaclip} extract "$list" --recipe "$here/common_crawl.toml" --out "$pool" "$@"
