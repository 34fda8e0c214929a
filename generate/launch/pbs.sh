#!/usr/bin/env bash
# A corpus by a PBS Pro or OpenPBS job array:
#   qsub -v RECIPE=recipe.toml,DEST=s3://bucket/corpus generate/launch/pbs.sh
#
# Submit from the folder that relative paths start from. `generate` is that of PALAESTRA_VENV, of
# .venv in that folder, or on PATH. -v passes PALAESTRA_VENV too, and flags of generate as FLAGS:
#   qsub -v RECIPE=recipe.toml,DEST=corpus,FLAGS="--steps 1000000",PALAESTRA_VENV=/venv …
# The same command again generates what is missing. Bytes depend on the CPU's features, and a task
# on other CPUs than the first task's refuses: on a mixed cluster choose a kind of node or a queue.
#
#PBS -N generate
#PBS -l select=1:ncpus=8:mem=6000mb
#PBS -l walltime=12:00:00
# 750 MB per core. After a node failed the task runs again: finished shards are kept
#PBS -r y
#PBS -j oe
# PBS does not tell a task how many there are, so both lines say it; for 64, without an edit:
#   qsub -J 0-63 -v RECIPE=recipe.toml,DEST=corpus,TASKS=64 generate/launch/pbs.sh
#PBS -J 0-15
TASKS=${TASKS:-16}
set -feuo pipefail

cd "$PBS_O_WORKDIR"
PATH=${PALAESTRA_VENV:-$PWD/.venv}/bin:$PATH
# by itself `generate` takes every core that it may run on, and PBS confines jobs to theirs only
# where its cgroup hook is enabled
# shellcheck disable=SC2086 # FLAGS are words
exec generate "$RECIPE" "$DEST" ${FLAGS:-} --array --array-count "$TASKS" --workers "$NCPUS"
