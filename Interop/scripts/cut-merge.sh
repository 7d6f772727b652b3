# Runs in the VM: cut-merge.sh CHUNK CHUNKS, on ORIGIN and COW.
#
# Merges a snapshot until at most CHUNKS of the COW device are in use, and cuts the power then. The
# origin takes its time: what is on the way to it at that moment is lost.
set -eu
chunk=$1 chunks=$2
size=$(blockdev --getsz /dev/vda)

dmsetup create slow --table "0 $size delay /dev/vda 0 0 /dev/vda 0 10"
dmsetup create merge --table "0 $size snapshot-merge /dev/mapper/slow /dev/vdb P $chunk"
while :; do
    status=$(dmsetup status merge)
    set -- $status
    [ "${4%/*}" -gt $((chunk * chunks)) ] || break
done
echo "cut status $status"
crash
