#!/usr/bin/env bash
# The whole way on Slurm: `sbatch examples/slurm.sh DATA [flags of run.py all]`, typed in the checkout.
# DATA, this folder and its .venv lie on storage that all nodes see. Adjust the lines with #SBATCH.
#SBATCH --job-name=foldblend
#SBATCH --output=foldblend-%j.log
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120

set -euo pipefail
data=${1:?usage: sbatch examples/slurm.sh DATA [flags]}
shift
. .venv/bin/activate
export RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_MODE=token # without, whoever reaches Ray's ports can run code; the token lies in your home, for all nodes
ray get-auth-token --generate >/dev/null

# A Ray node on each node of the allocation; two allocations on one machine have ports of their own.
head=$(hostname)
address="$(hostname --ip-address | awk '{print $1}'):$((20000 + SLURM_JOB_ID % 20000))"
start=(--block --num-cpus="$SLURM_CPUS_PER_TASK")
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun of Slurm 22.05 and later does not take it from sbatch
srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --port="${address##*:}" --node-ip-address="${address%%:*}" --include-dashboard=false "${start[@]}" &
for _ in {1..60}; do
    ray status --address="$address" >/dev/null 2>&1 && break
    sleep 2
done
if ((SLURM_NNODES > 1)); then
    srun --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --exclude="$head" \
        ray start --address="$address" "${start[@]}" &
fi

# Two minutes before the end of its time Slurm sends SIGTERM: every job keeps its last epoch, and the same
# command goes on there. `--max-hours` ends earlier, with a CSV made from what is done.
python run.py all "$data" --address "$address" --cache "${SLURM_TMPDIR:-/tmp}/foldblend-$USER" "$@" &
driver=$!
trap 'kill -TERM "$driver"' TERM
code=0
wait "$driver" || code=$?
if kill -0 "$driver" 2>/dev/null; then # the wait was cut short by the signal
    wait "$driver" || code=$?
fi
exit "$code" # which ends the Ray nodes: they are steps of this allocation
