#!/usr/bin/env bash
# Two hosts on this machine, joined by a cable: separate names, networks, processes and shared
# memory. Runs mpirun on the first one, nodea; a rank of nodeb is started as on a real host.
#   two_hosts.sh DIRECTORY MPIRUN-ARGUMENTS...
# DIRECTORY, which must be absolute, gets what the hosts need. When a file `lost` appears there,
# nodeb is gone with all its processes. Exits with mpirun's code; with 77, having said why, where
# this machine lacks a program or the rights.
set -eu
directory=$1
shift
if [ "${STRATA_HOST:-}" != nodea ]; then
  for program in mpirun ip unshare nsenter; do
    command -v "$program" > /dev/null || { echo "$program is not installed"; exit 77; }
  done
  unshare --net --uts --ipc --mount --pid --fork --mount-proc \
    sh -c 'mount -t tmpfs tmpfs /dev/shm && ip link add name cable type veth peer name other' \
    2> "$directory/rights" ||
    { echo "no right to namespaces and networks: $(cat "$directory/rights")"; exit 77; }
  STRATA_HOST=nodea exec unshare --net --uts --ipc --mount --pid --fork --mount-proc --kill-child \
    bash "$0" "$directory" "$@"
fi

hostname nodea
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
# shellcheck disable=SC2016  # expanded on nodeb
unshare --net --uts --ipc --mount --pid --fork --mount-proc --kill-child bash -c '
  hostname nodeb && mount -t tmpfs tmpfs /dev/shm && ip link set lo up && touch "$1/nodeb" && exec sleep infinity' \
  nodeb "$directory" &
outer=$!
until [ -e "$directory/nodeb" ]; do sleep 0.02; done
nodeb=$(tr -d ' ' < "/proc/$outer/task/$outer/children")
ip link add cable type veth peer name cable netns "$nodeb"
ip addr add 10.77.0.1/24 dev cable
ip link set cable up
nsenter -t "$nodeb" -n sh -c 'ip addr add 10.77.0.2/24 dev cable && ip link set cable up'

cat > "$directory/remote_shell" << END
#!/bin/sh
shift
exec nsenter -t $nodeb -n -u -i -m -p -- sh -c "\$*"
END
chmod +x "$directory/remote_shell"
(
  until [ -e "$directory/lost" ]; do sleep 0.05; done
  kill -KILL "$nodeb"
) > /dev/null 2>&1 &
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# Not by exec: mpirun would be process 1 of its namespace, which ignores signals it has no handler for.
status=0
mpirun --mca plm_rsh_agent "$directory/remote_shell" --host nodea:1,nodeb:1 -np 2 --bind-to none \
  "$@" || status=$?
exit "$status"
