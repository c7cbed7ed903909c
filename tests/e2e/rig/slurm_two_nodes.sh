#!/usr/bin/env bash
# A real Slurm of two nodes with one CPU each and with accounting, all on this machine's loopback, without systemd.
#
#   slurm_two_nodes.sh up DIR      start it; DIR, empty or new, holds its data, its logs and its configuration
#   slurm_two_nodes.sh down DIR    stop it
#
# Needs root, and Debian's slurmctld slurmd slurmdbd slurm-client slurm-wlm-basic-plugins munge mariadb-server. It writes
# /etc/slurm and /etc/munge/munge.key, and refuses where somebody else's slurm.conf is.
set -euo pipefail

action=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd)
host=$(hostname -s)
mark="# of lrtape's tests"
daemons=(slurmd.n1 slurmd.n2 slurmctld slurmdbd mariadbd munged)

die() { echo "slurm_two_nodes.sh: $*" >&2; exit 1; }

wait_for() { # until a command succeeds, 30 seconds at most
  for _ in $(seq 150); do "$@" >/dev/null 2>&1 && return; sleep 0.2; done
  die "not within 30 s: $*"
}

stop() { # at once: nothing of it is needed again
  for name in "${daemons[@]}"; do
    [ ! -s "$dir/$name.pid" ] || kill -9 "$(cat "$dir/$name.pid")" 2>/dev/null || true
  done
}

configure() {
  if [ -s /etc/slurm/slurm.conf ] && ! grep -qs -e "$mark" /etc/slurm/slurm.conf; then
    die "/etc/slurm/slurm.conf is not of these tests; it is left alone"
  fi
  mkdir -p /etc/slurm /run/munge "$dir"/{state,n1,n2,mysql,log}
  chmod 777 "$dir"
  cat >/etc/slurm/slurm.conf <<CONF
$mark
ClusterName=lrtape
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld
SlurmdLogFile=$dir/log/slurmd.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=1 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=1 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
CONF
  (
    umask 077
    cat >/etc/slurm/slurmdbd.conf <<CONF
$mark
AuthType=auth/munge
DbdHost=localhost
DbdAddr=127.0.0.1
SlurmUser=root
LogFile=$dir/log/slurmdbd
PidFile=$dir/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=33061
StorageUser=slurm
StoragePass=local
StorageLoc=slurm_acct_db
CommunicationParameters=NoInAddrAny
CONF
    [ -s /etc/munge/munge.key ] || head -c 1024 /dev/urandom >/etc/munge/munge.key
  )
  chown munge:munge /etc/munge/munge.key /run/munge /var/log/munge /var/lib/munge
  chmod 400 /etc/munge/munge.key
  chmod 755 /run/munge
}

database() { mariadb -uroot -S "$dir/mysqld.sock" -e "$1"; }

start() {
  setpriv --reuid=munge --regid=munge --clear-groups munged --force --pid-file=/run/munge/munged.pid
  cp /run/munge/munged.pid "$dir/munged.pid"
  chown -R mysql:mysql "$dir/mysql"
  mariadb-install-db --user=mysql --datadir="$dir/mysql" --auth-root-authentication-method=normal >"$dir/log/install-db" 2>&1
  setpriv --reuid=mysql --regid=mysql --clear-groups mariadbd --no-defaults --datadir="$dir/mysql" \
    --bind-address=127.0.0.1 --port=33061 --socket="$dir/mysqld.sock" --pid-file="$dir/mariadbd.pid" \
    --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 >"$dir/log/mariadbd" 2>&1 &
  wait_for database 'select 1'
  for where in localhost 127.0.0.1; do
    database "create user slurm@$where identified by 'local'; grant all on slurm_acct_db.* to slurm@$where;"
  done
  database 'create database slurm_acct_db;'
  slurmdbd
  wait_for sacctmgr --immediate add cluster lrtape
  slurmctld -c
  slurmd -N n1
  slurmd -N n2
  wait_for test_two_idle
}

test_two_idle() { [ "$(sinfo --noheader --states=idle --format=%D)" = 2 ]; }

case $action in
  up)
    [ "$(id -u)" = 0 ] || die "must be run by root"
    configure
    trap '[ $? = 0 ] || { tail -qn 1 "$dir"/log/* >&2; stop; }' EXIT
    start
    ;;
  down) stop ;;
  *) die "up or down, not $action" ;;
esac
