#!/bin/sh
# Slurm's daemons, from the system's packages: installed where they are absent, if that may be done here.
set -eu
PATH="$PATH:/usr/sbin"
if command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null && command -v srun >/dev/null; then
  exit 0
fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  export DEBIAN_FRONTEND=noninteractive
  if apt-get update -q && apt-get install -q -y --no-install-recommends slurmctld slurmd slurm-client munge; then
    exit 0
  fi
fi
echo "Slurm is not here. Install it, e.g.: sudo apt-get install slurmctld slurmd slurm-client munge" >&2
echo "Training under Slurm is not tried." >&2
