#!/usr/bin/env bash
# DataComp's filtering track, scale small, with balanced sets beside its baselines: the study that nobody has published.
#
#   pip install -e '.[train,crawl]' img2dataset huggingface_hub
#   bash curation/datacomp_small.sh FOLDER
#
# Run it from a checkout. It fetches the pool of 12.8 M pairs and the evaluation sets, matches once, balances at a sweep of t,
# makes DataComp's baselines (no filter, basic, text-based, and the best 30% by CLIP score: a teacher model, for comparison
# only), trains the same ViT-B-32 on each set, and evaluates each on the 38 tasks. FOLDER/results.md is the table.
# Every step continues if it is interrupted: run the same command again.
#
# Cost, by arithmetic and never run whole: 0.4 H100 hours of training for each of the ten sets (training/datacomp_small.toml);
# eight minutes of one core for identifying the languages of 12.8 M captions (35 us each). What downloading, matching and the
# 38 tasks take was not measured.
#
# Settings, by environment variables:
#   T          thresholds of the sweep; the default is about t = 20,000 of the paper's 1.6 G pairs, scaled to 12.8 M, and around
#   SETS       sets to train on (none basic text score default t30 t100 ...)
#   SCORE      the column of CLIP scores
#   RECIPE     the recipe of training
#   FLAGS      more flags of metaclip train
#   EVALUATE   what is evaluated, as flags of metaclip evaluate
#   METACLIP   the command
set -euo pipefail
if [ $# -ne 1 ]; then
  sed -n '2,25s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
mkdir -p "$1"
folder=$(cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
metaclip=${METACLIP:-$python -m metaclip}
t=${T:-30 100 300 1000 3000}
# shellcheck disable=SC2086 # T is several words
sets=${SETS:-none basic text score default $(printf 't%s ' $t)}
recipe=${RECIPE:-training/datacomp_small.toml}
evaluate=${EVALUATE:---suite datacomp --data $folder/evalsets}
tars=$folder/tars

step() { printf '\n### %s\n' "$*" >&2; }

if [ ! -e "$folder/downloaded" ]; then
  step "fetch the pool's metadata, the images and the evaluation sets"
  hf download mlfoundations/datacomp_small --repo-type dataset --include 'metadata/*.parquet' --local-dir "$folder"
  # As DataComp does: images of at most 512 pixels, faces blurred, and only those with the published digest.
  img2dataset --url_list "$folder/metadata" --input_format parquet --url_col url --caption_col text --bbox_col face_bboxes \
    --save_additional_columns '["uid","clip_b32_similarity_score","clip_l14_similarity_score"]' \
    --compute_hash sha256 --verify_hash '["sha256","sha256"]' --output_format webdataset --output_folder "$tars" \
    --image_size 512 --resize_mode keep_ratio_largest --resize_only_if_bigger True \
    --processes_count "$(nproc)" --thread_count 128
  [ -d "$folder/datacomp" ] || git clone --depth 1 https://github.com/mlfoundations/datacomp "$folder/datacomp"
  "$python" "$folder/datacomp/download_evalsets.py" "$folder/evalsets"
  touch "$folder/downloaded"
fi

step "balance what arrived: match once, then the default and a sweep of t"
$metaclip curate "$tars" --out "$folder/sets/default"
for value in $t; do
  $metaclip balance "$folder/sets/default" --t "$value" --out "$folder/sets/t$value"
done

step "the baselines"
for name in none basic text score; do
  case " $sets " in *" $name "*) ;; *) continue ;; esac
  # shellcheck disable=SC2046 # two words or none
  "$python" -m training.controls "$tars" --filter "$name" --out "$folder/sets/$name" \
    $([ "$name" = score ] && echo --column "${SCORE:-clip_l14_similarity_score}")
done

for name in $sets; do
  step "train and evaluate: $name"
  subset=$folder/sets/$name/subset.npy
  [ -e "$subset" ] || subset=$folder/sets/$name/curated.npy
  # shellcheck disable=SC2086 # FLAGS and EVALUATE are several words
  $metaclip train "$recipe" --tars "$tars" --subset "$subset" --out "$folder/models/$name" ${FLAGS:-}
  # shellcheck disable=SC2086 # the same
  $metaclip evaluate "$folder/models/$name" $evaluate || [ $? -eq 3 ] # 3: a set is damaged or incomplete, and listed
done

step "the table"
# shellcheck disable=SC2086 # sets are several words
results=$(printf "$folder/models/%s/results.jsonl " $sets)
# shellcheck disable=SC2086 # results are several words
"$python" -m training.compare $results | tee "$folder/results.md"
