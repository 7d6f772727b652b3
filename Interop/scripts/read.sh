# Runs in the VM: read.sh NAME ORIGIN COW STORE CHUNK, and the same again for more snapshots.
#
# Activates each read-only and says what the kernel makes of it. Devices in a table line are called
# by what they are for; what cannot be read is said so.
set -eu

number() { cat "/sys/block/$1/dev"; }
sum() { dd if="$1" bs=64k iflag=direct status=none | sha256sum | cut -d ' ' -f 1; }
readable() { dd if="$1" of=/dev/null bs=512 count=1 iflag=direct status=none 2>/dev/null; }

while [ $# -gt 0 ]; do
    name=$1 origin=$2 cow=$3 store=$4 chunk=$5
    shift 5
    size=$(blockdev --getsz "/dev/$origin")
    if ! dmsetup create snap --readonly \
        --table "0 $size snapshot /dev/$origin /dev/$cow $store $chunk"; then
        echo "$name table refused"
        continue
    fi
    echo "$name table $(dmsetup table snap | sed "s/ $(number "$origin") $(number "$cow") / ORIGIN COW /")"
    echo "$name status $(dmsetup status snap)"
    if readable /dev/mapper/snap; then
        echo "$name snapshot $(sum /dev/mapper/snap)"
    else
        echo "$name snapshot unreadable"
    fi
    echo "$name origin $(sum "/dev/$origin")"
    dmsetup remove snap
done
