#!/bin/sh
# Becomes downpipe, as whoever owns the mounted folder, so that the log on the host is theirs. If
# that is root, as a fixed user of no other rights, who is given the folder. Root is given up for good.
set -eu

data=/data
nobody_else=10001

if [ "$(id -u)" != 0 ]; then
    exec downpipe "$@"
fi

uid=$(stat -c %u "$data")
gid=$(stat -c %g "$data")
if [ "$uid" = 0 ]; then
    uid=$nobody_else
fi
if [ "$gid" = 0 ]; then
    gid=$uid
fi
# The folder, if it is root's, and what a run as root has left in it, whoever's it is: log, index, lock.
# Of a folder that this root may not read nothing is seen, and the daemon says what it may not open.
find "$data" -maxdepth 1 -user 0 -exec chown -h "$uid:$gid" {} + 2>/dev/null || true
exec setpriv --reuid="$uid" --regid="$gid" --clear-groups --inh-caps=-all --no-new-privs downpipe "$@"
