# Sourced by Interop/snapshots and Interop/mirrors: their options, what they need, checks, the VM.
# Both define usage() first, and $here, the folder that they are in.

canary=no keep=no
for option; do
    case $option in
        --canary) canary=yes ;;
        --keep) keep=yes ;;
        -h | --help) usage; exit ;;
        *) usage >&2; exit 2 ;;
    esac
done

fail() { echo "${0##*/}: $*" >&2; exit 2; }

missing=
for program in swift qemu-system-x86_64 awk dd od sha256sum; do
    command -v $program >/dev/null || missing="$missing $program"
done
if [ -n "$missing" ] || ! kernel=$("$here/kernel-vm/run" --version 2>/dev/null); then
    fail "missing:${missing:- the VM with the kernel}. Interop/kernel-vm/setup installs QEMU and" \
        "builds the VM: once, on Debian 12 (amd64), as root where packages are to be installed."
fi

begin=$(date +%s)
build() {
    swift build --quiet --package-path "$1" --product "$2" >&2 || fail "could not build $2"
    swift build --package-path "$1" --show-bin-path
}
generator=$(build "$here" kcopyd-interop)/kcopyd-interop
kcopyd=$(build "$here/.." kcopyd)/kcopyd
built=$(date +%s)

work=$(mktemp -d)
finish() {
    status=$?
    trap - EXIT
    if [ $keep = yes ]; then echo "images: $work"; else rm -rf "$work"; fi
    exit $status
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
# Names without a blank in them from here on.
cd "$work"

# --- checks

passed=0 failed=0 failures=
check() { # NAME EXPECTED ACTUAL
    if [ "$2" = "$3" ]; then
        passed=$((passed + 1))
        echo "ok      $1"
    else
        failed=$((failed + 1))
        failures="$failures|$1|"
        echo "FAILED  $1: expected '$2', got '$(printf %s "$3" | tr '\n' ' ')'"
    fi
}
sum() { sha256sum <"$1" | cut -d ' ' -f 1; }
pattern() { awk -f "$here/kernel-vm/guest/pattern" -- "$@"; }

# What the kernel said of something: its table, status, ...
said() { # NAME WHAT
    sed -n "s/^$1 $2 //p" kernel-said
}

# Changes the lowest bit of a byte.
flip() { # FILE OFFSET
    byte=$(od -An -tu1 -j "$2" -N 1 "$1" | tr -d ' ')
    printf "\\$(printf %o $((byte ^ 1)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# Makes the scenarios with the library, each in a folder of its name.
make_scenarios() { # snapshots|mirrors, NAME...
    kind=$1
    shift
    for scenario; do
        mkdir "$scenario"
        timeout 120 "$generator" "$kind" make "$scenario" "$scenario" ||
            fail "the scenario $scenario could not be played, or came to no end"
    done
}

# Says how it went and ends: with --canary well if the checks named have failed.
summarize() { # NAME...
    end=$(date +%s)
    echo "$((passed + failed)) checks, $failed failed, in $((end - built)) s after" \
        "$((built - begin)) s of building"
    if [ $canary = no ]; then
        [ $failed = 0 ] || exit 1
        exit 0
    fi
    for name; do
        case $failures in
            *"|$name|"*) ;;
            *) echo "the canary lives: '$name' did not see what was changed" && exit 1 ;;
        esac
    done
    echo "what was changed was seen, as it must be"
}

# --- the VM

# One boot takes 28 images at most.
drives=28 images= words= count=0
drive() {
    letter=$(echo abcdefghijklmnopqrstuvwxyz | cut -c $(($1 % 26 + 1)))
    if [ "$1" -lt 26 ]; then echo "vd$letter"; else echo "vda$letter"; fi
}
# Adds images to the next boot. $attached is what they are called there, each after a blank.
attach() { # IMAGE...
    attached=
    for image; do
        images="$images $image"
        attached="$attached $(drive $count)"
        count=$((count + 1))
    done
}
boot() { # [--ro] SCRIPT [WORDS], the images that were added
    read_only=
    if [ "$1" = --ro ]; then read_only=--ro && shift; fi
    # Split on purpose: names and words have no blanks.
    # shellcheck disable=SC2086
    "$here/kernel-vm/run" $read_only --timeout 120 "$here/scripts/$1.sh" $images -- ${2:-$words} \
        >>kernel-said || { cut -c 1-200 kernel-said >&2; fail "the script $1.sh ended in the VM"; }
    images= words= count=0
}
