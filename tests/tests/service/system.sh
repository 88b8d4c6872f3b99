# A systemd of its own, in namespaces of its own: its units, what it writes and its network are seen
# by nobody else. $1 is a folder for what it writes.
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
for d in etc var usr/local; do
    mkdir -p "$1/$d" "$1/$d-work"
    mount -t overlay overlay -o "lowerdir=/$d,upperdir=$1/$d,workdir=$1/$d-work" "/$d"
done
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs tmpfs /run
ip link set lo up
ip link add up0 type veth peer name far0
ip addr add 192.0.2.1/24 dev up0
ip link set up0 up
ip link set far0 up
ip route add default via 192.0.2.2
# Nothing but what is asked for: no unit of the machine's, and nothing that sets up a machine.
rm -rf /etc/systemd/system
mkdir -p /etc/systemd/system
for unit in systemd-sysctl systemd-modules-load systemd-remount-fs systemd-binfmt \
    systemd-tmpfiles-setup systemd-tmpfiles-setup-dev systemd-tmpfiles-clean \
    systemd-sysusers systemd-update-utmp systemd-udevd systemd-udev-trigger \
    systemd-random-seed systemd-journal-flush systemd-hwdb-update systemd-machine-id-commit \
    systemd-firstboot systemd-networkd systemd-resolved systemd-timesyncd; do
    ln -s /dev/null "/etc/systemd/system/$unit.service"
done
for unit in proc-sys-fs-binfmt_misc.automount proc-sys-fs-binfmt_misc.mount \
    sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount \
    sys-kernel-tracing.mount dev-hugepages.mount dev-mqueue.mount swap.target; do
    ln -s /dev/null "/etc/systemd/system/$unit"
done
: > /etc/fstab
printf '[Unit]\nDescription=Nothing\nDefaultDependencies=no\n' > /etc/systemd/system/lab.target
mkdir -p /etc/docker
printf '{"storage-driver": "vfs", "exec-opts": ["native.cgroupdriver=cgroupfs"]}\n' \
    > /etc/docker/daemon.json
export container=lab
exec /lib/systemd/systemd --system --unit=lab.target
