#!/bin/bash
# Boots a host, in a mount namespace of its own: an overlay over the tree, which goes with it, on which the system is built
# and installed first. Ends when it is told to, or when the host is powered off.
# boot.sh TREE FOLDER NAME PROGRAM NIXOS_REBUILD SEED INSTALLABLE
set -eu
tree=$1 folder=$2 name=$3 program=$4 rebuild=$5 seed=$6 installable=$7

# What is mounted here, and what is written below /run, goes with the namespace.
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs "$folder"
mkdir "$folder/upper" "$folder/work" "$folder/root"
mount -t overlay overlay -o "lowerdir=$tree,upperdir=$folder/upper,workdir=$folder/work" "$folder/root"
root=$folder/root
# A small disk for state that is there after a reboot, too. Where there are no loop devices it is in memory.
mkdir "$folder/disk"
truncate -s 4M "$folder/image"
mkfs.ext4 -q -m 0 "$folder/image" && mount -o loop "$folder/image" "$folder/disk" ||
    mount -t tmpfs -o size=2m,nr_inodes=200 tmpfs "$folder/disk"
rm -rf "$folder/disk/lost+found"
install -D -m 600 "$seed" "$root/root/listener.seed"
echo "$name" >"$root/etc/hostname"
for style in nixos-rebuild nixos-rebuild-bash nixos-rebuild-numbered; do
    install -D "$rebuild" "$root/packages/$style/bin/nixos-rebuild"
done

# systemd sees one kind of control groups only, and has them to itself.
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
group=/sys/fs/cgroup/homelab-deploy-$$
mkdir "$group"

# The tree brings the program that boots it, and the loader and libraries of that.
enter() {
    echo $BASHPID >"$group/cgroup.procs"
    libraries=$(echo "$tree"/usr/lib/*-linux-gnu)
    exec "$tree"/usr/lib*/ld-linux-*.so.* --library-path "$libraries:$libraries/systemd" "$tree/usr/bin/systemd-nspawn" \
        --quiet --directory="$root" --machine="$name" --register=no --keep-unit --link-journal=no --resolv-conf=off \
        --timezone=off --console=pipe --bind="$folder/disk:/disk" --bind-ro="$program:/program/1/bin/homelab-deploy" \
        --bind-ro="$program:/program/2/bin/homelab-deploy" "$@"
}

machine=
finish() {
    [ -z "$machine" ] || kill -TERM "$machine" 2>/dev/null || true
    wait
    find "$group" -depth -type d -exec rmdir {} + || true
}
trap finish EXIT
trap 'exit 1' TERM

profile=/nix/var/nix/profiles/system
run() {
    enter "$@" &
    machine=$!
    wait "$machine"
}
# That the program was made for another libc is better known before it is a service that does not start.
install='
    /program/1/bin/homelab-deploy --version
    system=$(nix build --no-link --print-out-paths "$2")
    nix-env --profile "$1" --set "$system"'
run bash -euc "$install" install "$profile" "$installable"
# With this code it says that the machine wants to be booted again.
code=133
while [ $code = 133 ]; do
    code=0
    run "$profile/init" || code=$?
done
