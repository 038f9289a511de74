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
    # Also what an earlier run as root has left there.
    find "$data" -maxdepth 1 -user 0 -exec chown "$uid:$uid" {} +
fi
if [ "$gid" = 0 ]; then
    gid=$uid
fi
exec setpriv --reuid="$uid" --regid="$gid" --clear-groups --inh-caps=-all --no-new-privs downpipe "$@"
