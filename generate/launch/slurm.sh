#!/usr/bin/env bash
# A corpus by a Slurm job array:
#   sbatch generate/launch/slurm.sh RECIPE DEST [FLAGS of generate]
#
# Submit from the folder that relative paths start from. `generate` is that of $PALAESTRA_VENV, of
# .venv in that folder, or on PATH. sbatch's flags override what stands here:
#   sbatch --array=0-63 --cpus-per-task=16 generate/launch/slurm.sh RECIPE DEST
# The same command again generates what is missing. To run only some tasks of an array of 16:
#   sbatch --array=3,7 generate/launch/slurm.sh RECIPE DEST --array-count 16
# Bytes depend on the CPU's features, and a task on other CPUs than the first task's refuses: on a
# mixed cluster choose a kind of node, by --constraint or --partition.
#
#SBATCH --job-name=generate
#SBATCH --array=0-15
#SBATCH --cpus-per-task=8
#SBATCH --mem-per-cpu=750M
#SBATCH --time=12:00:00
# after a node failed or the job was preempted the task runs again: finished shards are kept
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=generate-%A-%a.log
set -euo pipefail

PATH=${PALAESTRA_VENV:-$PWD/.venv}/bin:$PATH
# by itself `generate` takes every core that it may run on, and not every cluster confines jobs to
# theirs
exec generate "$@" --array --workers "$SLURM_CPUS_PER_TASK"
