# Runs in the VM: take.sh NAME ORIGIN COW CHUNK, and the same again for more snapshots.
#
# Takes a snapshot of each origin, writes to both sides what the name says, and prints what the
# kernel shows then.
set -eu

O=/dev/mapper/origin S=/dev/mapper/snap
sum() { dd if="$1" bs=64k iflag=direct status=none | sha256sum | cut -d ' ' -f 1; }

# Whole and part chunks of 16 sectors on both sides, over several chunks too.
one_area() {
    put $O 'origin v2' 16 0
    put $O 'origin v2' 2 35
    put $S 'snap v2' 16 80
    put $S 'snap v2' 1 127
    put $S 'snap v3' 1 32
    put $O 'origin v2' 48 1000
    put $S 'snap v2' 30 1500
    put $O 'origin v2' 1 2047
}

# Chunks of 8 sectors. The scattered ones are told by multiples of an odd number: each chunk comes
# once, neighbours never follow each other.
scattered() {
    awk -v first="$1" -v end="$2" -v offset="$3" \
        'BEGIN { for (n = first; n < end; n++) print n * 389 % 1024 * 8 + offset }'
}
three_areas() {
    put $O 'origin v2' 8 $(scattered 0 50 0)
    put $S 'snap v2' 5 $(scattered 50 100 1)
    put $O 'origin v3' 2200 5
    put $S 'snap v2' 1500 5003
    put $S 'snap v3' 8 $(scattered 100 200 0)
    put $O 'origin v4' 3 $(scattered 200 300 2)
}

# The origin ends in a chunk of 128 sectors.
begun_chunk() {
    put $O 'origin v2' 11 1990
    put $S 'snap v2' 2 1999
    put $O 'origin v2' 1 600
    put $S 'snap v2' 128 128
}

while [ $# -gt 0 ]; do
    name=$1 origin=$2 cow=$3 chunk=$4
    shift 4
    size=$(blockdev --getsz "/dev/$origin")
    dmsetup create snap --table "0 $size snapshot /dev/$origin /dev/$cow P $chunk"
    dmsetup create origin --table "0 $size snapshot-origin /dev/$origin"
    "$(echo "$name" | tr - _)"
    echo "$name status $(dmsetup status snap)"
    echo "$name snapshot $(sum $S)"
    echo "$name origin $(sum $O)"
    dmsetup remove snap
    dmsetup remove origin
done
