# Runs in the VM: mirror.sh NAME LENGTH REGION WRITE..., on LEG0, LEG1, LEG2 and LOG; a write is
# FIRST:COUNT.
#
# Makes a mirror, does with it what the name says, and prints the log as it is left.
set -eu
name=$1 length=$2 region=$3
shift 3
writes=$*
mirror=/dev/mapper/mirror

create() { # LENGTH LEG1 LEG2 [POLICY]
    arguments="2 /dev/vdd $region"
    [ -z "${4:-}" ] || arguments="3 /dev/vdd $region $4"
    dmsetup create mirror --table "0 $1 mirror disk $arguments 3 /dev/vda 0 $2 0 $3 0"
}
wait_in_sync() { # REGIONS
    left=600
    until [ "$(dmsetup status mirror | grep -o '[0-9]*/')" = "$1/" ]; do
        [ $((left -= 1)) -gt 0 ] || { dmsetup status mirror && exit 1; }
        sleep 0.1
    done
}
regions() { echo $((($1 + region - 1) / region)); }
write() { # LABEL
    for write in $writes; do put $mirror "$1" "${write#*:}" "${write%:*}"; done
}
# Other legs that take writes up to a sector only; those behind it are held up for ever.
hold() { # FROM
    for n in 1 2; do
        leg=/dev/vd$(echo abc | cut -c $((n + 1)))
        {
            [ "$1" = 0 ] || echo "0 $1 linear $leg 0"
            # Flushes are let through: those for the first part go to both.
            echo "$1 $((length - $1)) delay $leg $1 0 $leg $1 600000 $leg $1 0"
        } | dmsetup create "slow$n"
    done
}
log() { dd if=/dev/vdd bs=64k iflag=direct status=none | od -An -v -tx1 | tr -d ' \n'; }
end() {
    dmsetup remove mirror
    echo "$name log $(log)"
}
cut_off() {
    echo "$name status $(dmsetup status mirror)"
    echo "$name log $(log)"
    crash
}
# Waits until a log stays as it is for a while.
settle() {
    before= now=$(log)
    until [ "$before" = "$now" ]; do
        sleep 0.7
        before=$now
        now=$(log)
    done
}

case $name in
    synced)
        create "$length" /dev/vdb /dev/vdc
        wait_in_sync "$(regions "$length")"
        write v2
        end
        ;;
    nosync)
        create "$length" /dev/vdb /dev/vdc nosync
        write v2
        end
        ;;
    # The first part of it is in sync when the power fails.
    half)
        hold $((30 * region))
        create "$length" /dev/mapper/slow1 /dev/mapper/slow2
        wait_in_sync 30
        settle
        cut_off
        ;;
    # The mirror was shorter before.
    grown)
        create $((length / 2)) /dev/vdb /dev/vdc
        wait_in_sync "$(regions $((length / 2)))"
        dmsetup remove mirror
        hold 0
        create "$length" /dev/mapper/slow1 /dev/mapper/slow2
        settle
        cut_off
        ;;
    # The other legs don't have the writes when the power fails.
    dirty | dirty-many-regions)
        # Copying many would take long: these legs are the same already.
        policy=sync
        [ "$name" = dirty ] || policy=nosync
        create "$length" /dev/vdb /dev/vdc $policy
        wait_in_sync "$(regions "$length")"
        dmsetup remove mirror
        hold 0
        create "$length" /dev/mapper/slow1 /dev/mapper/slow2
        for one in $writes; do
            writes=$one
            write v2 &
        done
        settle
        cut_off
        ;;
    # One leg takes no writes behind its middle.
    leg-lost)
        create "$length" /dev/vdb /dev/vdc
        wait_in_sync "$(regions "$length")"
        dmsetup remove mirror
        half=$((length / 2 / region * region))
        printf '%s\n' "0 $half linear /dev/vdc 0" "$half $((length - half)) error" |
            dmsetup create broken
        create "$length" /dev/vdb /dev/mapper/broken
        write v2
        echo "$name status $(dmsetup status mirror)"
        end
        ;;
esac
