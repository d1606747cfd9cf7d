#!/usr/bin/env bash
# A pool curated by a job array of Slurm:
#
#   bash curation/slurm.sh PARTS RUN POOL... [FLAGS OF metaclip match]
#   BALANCE="--t 20000" bash curation/slurm.sh 100 run/ 'pool/*.parquet' --metadata list.txt
#
# Task i of the array matches part i of PARTS; one more job, which waits for all tasks, combines the parts and balances. If
# a task was killed, ran out of time or lost its node, submit all of it again by the same command: finished parts end at
# once, the others continue after their last finished shard, and the result is that of one run on one machine, to the byte.
# A task that Slurm requeues by itself does the same. RUN is on a file system that all nodes share, or in a store. The tasks
# write what they say to run.<task>.log in the current folder, the last job to run.log.
#
# Settings, by environment variables:
#   BALANCE    flags of metaclip balance
#   CPUS       processors of a task; the default is 4
#   METACLIP   another command to run instead of metaclip
#   SBATCH_*   what sbatch itself reads: SBATCH_PARTITION, SBATCH_ACCOUNT, SBATCH_TIMELIMIT, SBATCH_MEM_PER_CPU, ...
set -euo pipefail
if [ $# -lt 3 ]; then
  sed -n '2,18s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
parts=$1 run=${2%/}
log=$(basename "$run")
shift 2
metaclip=${METACLIP:-metaclip} workers="--workers \$SLURM_CPUS_PER_TASK"
match="$metaclip match $(printf '%q ' "$@" --out "$run")$workers"
balance="$metaclip balance $(printf '%q' "$run") ${BALANCE:-} $workers"

submit() { # SCRIPT [FLAGS OF sbatch]
  sbatch --parsable --requeue --open-mode append --cpus-per-task "${CPUS:-4}" "${@:2}" <<<"#!/usr/bin/env bash
$1"
}

# The number of parts is written out: if some tasks are submitted alone, Slurm counts only these.
array=$(submit "exec $match --part \$SLURM_ARRAY_TASK_ID/$parts" \
  --job-name metaclip-match --array "1-$parts" --output "$log.%a.log")
# The same command without --part combines what the parts found. If one of them failed, this job is cancelled.
last=$(submit "$match && $balance" \
  --job-name metaclip-balance --dependency "afterok:$array" --kill-on-invalid-dep yes --output "$log.log")
echo "submitted array $array and job $last; squeue --jobs $array,$last shows them"
