# Runs in the VM: merge.sh NAME ORIGIN COW STORE CHUNK, and the same again for more snapshots.
#
# Merges each into its origin, and reads it while that goes on.
set -eu

sum() { dd if="$1" bs=64k iflag=direct status=none | sha256sum | cut -d ' ' -f 1; }

while [ $# -gt 0 ]; do
    name=$1 origin=$2 cow=$3 store=$4 chunk=$5
    shift 5
    size=$(blockdev --getsz "/dev/$origin")
    if ! dmsetup create merge \
        --table "0 $size snapshot-merge /dev/$origin /dev/$cow $store $chunk"; then
        echo "$name status refused"
        continue
    fi
    echo "$name merging $(sum /dev/mapper/merge)"
    while :; do
        status=$(dmsetup status merge)
        # As much allocated as there is metadata: nothing is left.
        case $(echo "$status" | cut -d ' ' -f 4,5) in
            */*' '*) [ "$(echo "$status" | cut -d ' ' -f 4 | cut -d / -f 1)" != "${status##* }" ] || break ;;
            *) break ;;
        esac
        sleep 0.05
    done
    echo "$name status $status"
    dmsetup remove merge
    echo "$name origin $(sum "/dev/$origin")"
done
