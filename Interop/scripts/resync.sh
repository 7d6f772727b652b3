# Runs in the VM: resync.sh NAME LENGTH REGION POLICY LOG LEGS DEVICE OFFSET..., and the same again
# for more mirrors. POLICY is sync, nosync, or as-logged.
#
# Activates each mirror while the other legs take no writes, and says what the kernel made of the
# log; then lets it copy what it wants to, and says how much that was.
set -eu

written() { awk '{ print $7 }' "/sys/block/$1/stat"; }
log() { dd if="/dev/$1" bs=64k iflag=direct status=none | od -An -v -tx1 | tr -d ' \n'; }
# The status without the numbers of devices.
status() {
    dmsetup status mirror |
        sed 's/^\(.* mirror [0-9]*\).* \([0-9]*\/.*disk\) [^ ]* /\1 \2 /'
}
in_sync() { dmsetup status mirror | grep -o '[0-9]*/[0-9]*'; }

while [ $# -gt 0 ]; do
    name=$1 length=$2 region=$3 policy=$4 log=$5 count=$6
    shift 6
    regions=$(((length + region - 1) / region))
    legs= all= before= n=0
    while [ $n -lt "$count" ]; do
        if [ $n = 0 ]; then
            legs="/dev/$1 $2"
        else
            # Ten minutes: for ever, here.
            dmsetup create "slow$n" \
                --table "0 $(blockdev --getsz "/dev/$1") delay /dev/$1 0 0 /dev/$1 0 600000"
            legs="$legs /dev/mapper/slow$n $2"
        fi
        all="$all $1"
        before="$before $(written "$1")"
        n=$((n + 1))
        shift 2
    done
    case $policy in
        as-logged) arguments="2 /dev/$log $region" ;;
        *) arguments="3 /dev/$log $region $policy" ;;
    esac
    if ! dmsetup create mirror --table "0 $length mirror disk $arguments $count $legs"; then
        echo "$name in-sync refused"
        while n=$((n - 1)); [ $n -gt 0 ]; do dmsetup remove "slow$n"; done
        continue
    fi
    echo "$name in-sync $(in_sync)"
    echo "$name log $(log "$log")"

    # What is held up is let go when the device gets another table.
    n=0
    for leg in $all; do
        if [ $n -gt 0 ]; then
            dmsetup reload "slow$n" \
                --table "0 $(blockdev --getsz "/dev/$leg") linear /dev/$leg 0"
            dmsetup resume "slow$n"
        fi
        n=$((n + 1))
    done
    left=1200
    until [ "$(in_sync)" = "$regions/$regions" ] || [ $left = 0 ]; do
        left=$((left - 1))
        sleep 0.05
    done
    echo "$name status $(status)"
    dmsetup remove mirror
    copied=
    n=0
    for leg in $all; do
        [ $n = 0 ] || dmsetup remove "slow$n"
        n=$((n + 1))
        copied="$copied $(($(written "$leg") - $(echo $before | cut -d ' ' -f $n)))"
    done
    echo "$name copied$copied"
    echo "$name log-then $(log "$log")"
done
