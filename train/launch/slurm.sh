#!/usr/bin/env bash
# A training run by a Slurm job, one rank per GPU:
#   sbatch --nodes 16 --gpus-per-node 8 train/launch/slurm.sh CORPUS… --run RUN [FLAGS of train]
#
# Submit from the folder that relative paths start from. `train` is that of $PALAESTRA_VENV, of
# .venv in that folder, or on PATH. A node without GPUs has one rank, or --ntasks-per-node of them.
#
# Ten minutes before the time limit the ranks save and leave, and the job queues itself again, as
# often as the run needs; after a preemption or a node's failure Slurm queues it. An error ends the
# job, `scancel` too: the same command goes on from the newest checkpoint.
#
#SBATCH --job-name=train
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=12:00:00
# to the ranks, not to this script; Slurm looks every 30 s and may be a minute early
#SBATCH --signal=USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=train-%j.log
set -euo pipefail

PATH=${PALAESTRA_VENV:-$PWD/.venv}/bin:$PATH
ranks=${SLURM_NTASKS_PER_NODE:-${SLURM_GPUS_ON_NODE:-1}} # per node
export OMP_NUM_THREADS=$((SLURM_CPUS_ON_NODE / ranks))
export MASTER_ADDR=$SLURMD_NODENAME MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))

# srun starts the ranks: torchrun (2.13) exits with 1 whatever their code, dies of SIGUSR1, and by
# default kills them 30 s after a SIGTERM, saved or not. --wait: when one has ended the others get a
# minute, since they may wait for it forever.
code=0
# shellcheck disable=SC2016 # each task expands its own
srun --ntasks-per-node="$ranks" --ntasks=$((SLURM_JOB_NUM_NODES * ranks)) \
    --cpus-per-task="$OMP_NUM_THREADS" --wait=60 --kill-on-bad-exit=0 bash -c '
        export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
        exec train "$@"' train "$@" || code=$?
# 75: stopped by a signal, with everything saved
if ((code == 75)); then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
