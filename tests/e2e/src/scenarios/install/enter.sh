# Runs a program with this directory as its root: enter.sh ROOT ro|rw PROGRAM [ARGUMENT...]. The mounts are those of a mount
# namespace that ends with it. `ro` is what ProtectSystem=strict and StateDirectory=edgehold make of the unit.
set -e
root=$1 access=$2
shift 2
mount --bind "$root" "$root"
for dir in /usr/bin /usr/sbin /usr/lib /usr/lib64 /bin /sbin /lib /lib64 /proc /sys /dev; do
    [ -d "$root$dir" ] && [ ! -L "$root$dir" ] || continue
    mount --rbind "$dir" "$root$dir"
done
if [ "$access" = ro ]; then
    mount --bind "$root/var/lib/edgehold" "$root/var/lib/edgehold"
    mount -o remount,bind,ro "$root"
fi
exec chroot "$root" "$@"
