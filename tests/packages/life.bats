# The life of an installation on a node that works: slurmd runs all the time, as it has been started without the package.
# shellcheck shell=bash disable=SC2154

bats_require_minimum_version 1.5.0

setup_file() {
    export root=$BATS_TEST_DIRNAME/../..
    # shellcheck source=tests/cluster/common.sh disable=SC1091
    . "$root/tests/cluster/common.sh"
    debian=$("$root/tests/cluster/slurm-root" trixie)
    "$root/packaging/build" "$BATS_FILE_TMPDIR" >/dev/null
    DEB=$(echo "$BATS_FILE_TMPDIR"/pyxis_*.deb)
    # The same with a version before it, and other bytes.
    export OLDER=$BATS_FILE_TMPDIR/older.deb DEB debian
    dpkg-deb -R "$DEB" "$BATS_FILE_TMPDIR/older"
    sed -i 's/^Version: .*/Version: 0.0.1-1/' "$BATS_FILE_TMPDIR/older/DEBIAN/control"
    dpkg-deb --root-owner-group -Zgzip --build "$BATS_FILE_TMPDIR/older" "$OLDER" >/dev/null
}

setup() { load common; }

# on_a_node SCRIPT: in a root directory with a Slurm that works, where the package is not yet installed.
on_a_node() {
    cp "$OLDER" "$root/target/pyxis-older.deb"
    # shellcheck disable=SC2016 # the inner shell expands these
    inside '
        older=$OLDPWD/target/pyxis-older.deb
        . "$OLDPWD/tests/cluster/common.sh"
        export PYXIS_TEST_PLUGSTACK="include /usr/share/pyxis/*" SLURM_CONF=$test_state/slurm.conf
        "$root/tests/cluster/up" >/root/up 2>&1 || { cat /root/up; exit 1; }
        home=/home/pyxis-alice image=$test_registry#busybox
        daemons() { pgrep -x slurmd | sort; }
        cd /
        as_alice() { runuser -u pyxis-alice -- timeout 300 "$@"; }
        step() { as_alice srun --quiet "$@"; }
        # One that runs until there is a file "go", and then writes a line; $stepd is its slurmstepd.
        hold() {
            step --container-image="$image" --container-mounts=$home --container-name=held --container-save=$home/saved.sqsh \
                sh -c "touch $home/ready; while [ ! -e $home/go ]; do sleep 0.1; done; echo goes on" &
            held=$!
            poll 30 "the step is ready" test -e $home/ready
            stepd=$(pgrep -f "^slurmstepd: \[[0-9]*\.0\]" | head -n1)
        }
        let_go() { as_alice touch $home/go; wait $held; }
        before=$(daemons)
        '"$1"'
        [ "$(daemons)" = "$before" ]
        "$root/tests/cluster/down"'
    rm -f "$root/target/pyxis-older.deb"
}

@test "installed: the next step has the options, without a restart" {
    on_a_node '
        step --container-image="$image" true 2>&1 | grep -o "unrecognized option"
        install
        step --container-image="$image" head -n1 /etc/os-release
        pyxis check | tail -n1'
    says $'unrecognized option\nPRETTY_NAME="Busybox in a container"\ncontainers will start'
}

@test "upgraded while a container runs: it goes on, others join it, new steps have the new files" {
    on_a_node '
        dpkg --force-depends -i "$older" >/dev/null 2>&1
        hold
        install
        grep -o "spank_pyxis.so (deleted)" /proc/$stepd/maps | sort -u
        step --overlap --jobid="$(squeue -ho %A -w n1 | head -n1)" --container-name=held cat $home/ready && echo joined
        step --container-image="$image" echo new
        let_go
        step --container-image=$home/saved.sqsh echo saved
        dpkg-query -Wf "\${Version}" pyxis | grep -v "^0\.0\.1"'
    [ "$status" = 0 ] && [[ $output == $'spank_pyxis.so (deleted)\njoined\nnew\ngoes on\nsaved\n'* ]] || { shows; false; }
}

@test "downgraded: images and containers of the newer one are used" {
    on_a_node '
        install
        step --container-image="$image" --container-name=kept --container-writable sh -c "echo kept >/file"
        dpkg --force-depends -i "$older" >/dev/null 2>&1
        step --container-name=kept cat /file
        step --container-image="$image" echo image
        dpkg-query -Wf "\${Version}\n" pyxis'
    says $'kept\nimage\n0.0.1-1'
}

@test "removed while a container runs: that one ends well, steps go on without the options, nothing is left" {
    on_a_node '
        install
        used() { wc -l </proc/mounts; losetup -ln | wc -l; }
        before_use=$(used)
        unused() { [ "$(used)" = "$before_use" ]; }
        hold
        dpkg --remove pyxis >/dev/null 2>&1
        step echo plain
        step --container-image="$image" true 2>&1 | grep -o "unrecognized option"
        let_go
        test -s $home/saved.sqsh
        dpkg --purge pyxis >/root/purge 2>&1; cat /root/purge >&2
        ls /run/pyxis /etc/pyxis /usr/libexec/pyxis 2>/dev/null || true
        poll 10 "the images are unmounted" unused
        pgrep -l "^(pyxis-.*|worker)$" || true'
    says $'plain\nunrecognized option\ngoes on'
    [[ $stderr == *"/var/lib/pyxis is kept: remove it if nobody needs what is in it"* ]]
}
