#!/usr/bin/env bash
# Run a command beside a Slurm of one machine that lives in a temporary folder.
#
#   bash tests_slurm/slurm_here.sh sbatch --wait job.sbatch
#
# Needs Debian's slurmctld, slurmd, slurm-client and munge, no configuration and no service:
#   apt-get install slurmctld slurmd slurm-client munge
# SLURM_CONF points the command (sbatch, srun, squeue) at it. Everything ends with the command. If the daemons do not
# start, their logs are printed and the exit status is 75.
set -euo pipefail

for program in munged slurmctld slurmd sinfo; do
    if ! PATH="$PATH:/usr/sbin" command -v "$program" >/dev/null; then
        echo "$program is missing: apt-get install slurmctld slurmd slurm-client munge" >&2
        exit 4
    fi
done
PATH="$PATH:/usr/sbin"

# munged insists on folders that nobody else can write to, and sockets on short paths.
place=$(mktemp -d /var/tmp/slurm.XXXXXX)
mkdir "$place/munge" "$place/state" "$place/spool"
chmod 755 "$place" "$place/munge"
user=$(id -un)
host=$(hostname -s)
read -r ctld_port d_port < <(python3 - <<'PORTS'
import socket
held = [socket.socket() for _ in range(2)]
for one in held:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held))
PORTS
)

end() {
    for daemon in slurmd slurmctld munged; do
        if [ -s "$place/$daemon.pid" ]; then
            kill "$(cat "$place/$daemon.pid")" 2>/dev/null || true
        fi
    done
    sleep 1
    rm -rf "$place"
}
trap end EXIT

head -c 1024 /dev/urandom >"$place/munge/key"
chmod 400 "$place/munge/key"
munged --force --key-file="$place/munge/key" --socket="$place/munge/socket" --pid-file="$place/munged.pid" \
    --log-file="$place/munge/log" --seed-file="$place/munge/seed"

cat >"$place/slurm.conf" <<CONF
ClusterName=here
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$place/munge/socket,cred_expire=5
CredType=cred/munge
SlurmctldPort=$ctld_port
SlurmdPort=$d_port
SlurmctldPidFile=$place/slurmctld.pid
SlurmdPidFile=$place/slurmd.pid
SlurmctldLogFile=$place/slurmctld.log
SlurmdLogFile=$place/slurmd.log
StateSaveLocation=$place/state
SlurmdSpoolDir=$place/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=60
# Two jobs of one task on the smallest machine; hardware that differs from what is said is none of ours.
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE OverSubscribe=NO State=UP
CONF
export SLURM_CONF="$place/slurm.conf"

slurmctld -c
slurmd -c
for _ in $(seq 60); do
    if sinfo --noheader --format=%T 2>/dev/null | grep -q idle; then
        "$@"
        exit
    fi
    sleep 0.5
done
echo "Slurm did not start" >&2
cat "$place/slurmctld.log" "$place/slurmd.log" >&2 || true
exit 75
