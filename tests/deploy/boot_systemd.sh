#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The inner half of prove_service.sh: boots systemd in a Debian root, as process 1 of namespaces of its
# own, so that units meet the real thing without touching the machine's.
#   unshare -m -p -f -i -u -n tests/deploy/boot_systemd.sh ROOT
set -euo pipefail

root=$1
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
# The kernel's settings belong to the machine.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/dev"
for device in null zero full random urandom tty; do
    mknod -m 666 "$root/dev/$device" c "$(stat -c %Hr "/dev/$device")" "$(stat -c %Lr "/dev/$device")"
done
mkdir "$root"/dev/{pts,shm,mqueue,hugepages}
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mount -t tmpfs tmpfs "$root/dev/shm"
# A control group to be the root of, in a hierarchy without controllers where the machine has version 1.
mount -t tmpfs tmpfs "$root/sys"
mkdir -p "$root/sys/fs/cgroup"
mount -t cgroup2 none "$root/sys/fs/cgroup"
mkdir -p "$root/sys/fs/cgroup/lacuna-proof-$$"
echo $$ >"$root/sys/fs/cgroup/lacuna-proof-$$/cgroup.procs"
umount "$root/sys/fs/cgroup"

cd "$root"
pivot_root . mnt
cd /
umount -l /mnt
mount --make-rshared / # systemd leaves this to whoever made the container
exec unshare -C sh -c 'mount -t cgroup2 none /sys/fs/cgroup &&
    exec env -i container=lacuna PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --show-status=0 --log-target=null --unit=multi-user.target'
