# `make demo`, and what `make demo-down` leaves. Runs beside the test cluster.

setup() {
    load ../bats/common
    [ ! -e /etc/slurm/slurm.conf ] || skip "this machine has a Slurm, or the demo runs"
}

@test "from nothing to a container, and back" {
    run --separate-stderr make --no-print-directory -C "$root" demo
    echo "$stderr"
    [ "$status" = 0 ]
    [[ $output == *'PRETTY_NAME="Debian GNU/Linux 12 (bookworm) in a container"'* ]] || { echo "$output"; false; }
    run make --no-print-directory -C "$root" demo-down
    echo "$output"
    [ "$status" = 0 ]
    [ ! -e /etc/slurm/slurm.conf ] && [ ! -e /etc/slurm/plugstack.conf.d/pyxis.conf ]
    run pgrep -f "$demo_state"
    [ -z "$output" ] || { pgrep -af "$demo_state"; false; }
}
