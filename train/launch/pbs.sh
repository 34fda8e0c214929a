#!/usr/bin/env bash
# A training run by PBS Pro (2021.1 or later) or OpenPBS (20 or later), one rank per GPU:
#   qsub -l select=16:ncpus=64:ngpus=8:mpiprocs=8 -v TRAIN="CORPUS… --run RUN …" train/launch/pbs.sh
#
# Submit from the folder that relative paths start from. `train` is that of PALAESTRA_VENV, of
# .venv in that folder, or on PATH. TRAIN is its words, none with a blank inside; -v passes
# PALAESTRA_VENV and STOP_AFTER too. mpiprocs is the number of ranks on each node.
#
# Here a job cannot queue itself again (qrerun is for operators), so it is an array whose tasks run
# one at a time, each from where the last one stopped. What finishes the run, or fails, deletes the
# rest. After a node's failure or a preemption PBS queues the task again. `qdel` leaves ten seconds
# too.
#
#PBS -N train
#PBS -l select=1:ncpus=8:mpiprocs=1
#PBS -l place=scatter:excl
#PBS -l walltime=12:00:00
#PBS -J 0-99%1
#PBS -r y
#PBS -j oe
# PBS does not tell a job its walltime, and at its end leaves ten seconds (kill_delay) to save: so
# both lines say it, and the ranks stop ten minutes before
STOP_AFTER=${STOP_AFTER:-710m}
set -feuo pipefail

cd "$PBS_O_WORKDIR"
PATH=${PALAESTRA_VENV:-$PWD/.venv}/bin:$PATH
mapfile -t hosts <"$PBS_NODEFILE" # a line for each rank
job=${PBS_JOBID%%[^0-9]*}
shared=(
    PATH="$PATH" WORLD_SIZE="${#hosts[@]}"
    MASTER_ADDR="${hosts[0]}" MASTER_PORT=$((20000 + job % 10000))
    OMP_NUM_THREADS=$((NCPUS / $(grep -cxF "${hosts[0]}" "$PBS_NODEFILE")))
)
declare -A on=() # ranks on a host so far
for rank in "${!hosts[@]}"; do
    host=${hosts[rank]} local_rank=${on[${hosts[rank]}]:-0}
    on[$host]=$((local_rank + 1))
    there=() limit=()
    # PBS's own remote shell hands back the exit code, and its ranks end with the job
    if [[ $host != "${hosts[0]}" ]]; then there=(pbs_tmrsh "$host"); fi
    # one is told: it tells the others
    if ((rank == 0)); then limit=(timeout --preserve-status --signal=USR1 "$STOP_AFTER"); fi
    # shellcheck disable=SC2086 # TRAIN is words
    "${there[@]}" /usr/bin/env --chdir="$PWD" "${shared[@]}" RANK="$rank" LOCAL_RANK="$local_rank" \
        "${limit[@]}" train $TRAIN &
done

# the first to end says how it went; the others, which may wait for it forever, get a minute
code=0
wait -n || code=$?
for ((second = 0; second < 60; second++)); do
    [[ -n $(jobs -rp) ]] || break
    sleep 1
done
# 75: stopped by a signal, with everything saved
if ((code != 75)); then qdel "$PBS_ARRAY_ID"; fi
exit "$code"
