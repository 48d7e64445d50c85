# The command under the names singularity and apptainer: images of a user without rights, without Slurm.

setup_file() {
    load common
    export work
    work=$(alice_dir singularity)
    as "$alice" sh -c "cd $work && mkdir bin data run && chmod 0700 run && for name in singularity apptainer; do \
        ln -s /usr/libexec/pyxis/worker bin/\$name; done"
    # Where users have no FUSE, images are unpacked.
    fuse_mode=$(stat -c %a /dev/fuse)
    export fuse_mode
    chmod 0666 /dev/fuse
    s pull box.sif "docker://$R/busybox"
    ok
    # As Apptainer itself builds them.
    "$root/tests/cluster/apptainer"
}
teardown_file() {
    chmod "$fuse_mode" /dev/fuse
    rm -rf "$work"
}

setup() { load common; }

# s WORD...: singularity, by alice in $work. VAR=VALUE words first go into her environment. `code=N s WORD...` wants that
# exit code.
s() { of singularity "$@"; }
of() {
    local name=$1 vars=()
    shift
    while [[ ${1-} =~ ^[A-Za-z_][A-Za-z_0-9]*= ]]; do vars+=("$1"); shift; done
    run ${code:+"-$code"} --separate-stderr as "$alice" XDG_DATA_HOME="$work/data" XDG_RUNTIME_DIR="$work/run" "${vars[@]}" \
        sh -c 'cd "$0" && exec "$@"' "$work" timeout 120 "$work/bin/$name" "$@"
}
says_no() {
    [ "$status" = 255 ] && [ "$(wc -l <<<"$stderr")" = 1 ] && [[ $stderr == "FATAL:   "*"$1"* ]] || { echo "wanted: $1"; show; return 1; }
}

@test "exec, run and shell" {
    s exec box.sif id -u
    says "$alice_uid"
    s exec box.sif sh -c 'exit 7'
    [ "$status" = 7 ]
    of apptainer run box.sif echo from the runscript
    says "from the runscript"
    s shell box.sif -c 'echo from $0'
    says "from /bin/sh"
    s shell --shell /bin/sh box.sif -c 'echo chosen'
    says chosen
}

@test "images of registries, squashfs files and directories" {
    s exec "docker://$R/busybox" echo a
    says a
    as "$alice" sh -c "cd $work && rm -rf sandbox && unsquashfs -q -n -d sandbox -o 4096 box.sif >/dev/null"
    s exec sandbox sh -c 'echo b; test -e /.singularity.d/runscript && echo c'
    says $'b\nc'
    # What is written is not in it.
    s exec --writable-tmpfs sandbox sh -c 'echo x >/x && cat /x'
    says x
    [ ! -e "$work/sandbox/x" ]
    as "$alice" mksquashfs "$work/sandbox" "$work/box.sqsh" -all-root -quiet -noappend >/dev/null
    s exec box.sqsh echo d
    says d
}

@test "what is there of the host: home, working directory, /tmp, variables" {
    file=$(as "$alice" mktemp)
    s A=1 exec box.sif sh -c 'pwd; echo "$A $HOME"; test -e "$0" && echo tmp; test -d "$HOME/'"$(basename "$work")"'" && echo home' "$file"
    rm -f "$file"
    says "$work"$'\n'"1 $alice_home"$'\ntmp\nhome'
    for options in "-c" "-C"; do
        s A=1 exec "$options" box.sif sh -c 'pwd; ls -A /tmp ~; touch ~/x && echo memory'
        says "$alice_home"$'\n'"$alice_home:"$'\n\n/tmp:\nmemory'
    done
    s A=1 exec -e box.sif sh -c 'echo "<$A>"'
    says "<>"
    s A=1 exec -C box.sif sh -c 'echo "<$A>"'
    says "<>"
    err_has "no PID namespace"
    s exec --no-home box.sif ls "$alice_home"
    says "$(basename "$work")"
    s exec -H "$work/data:/elsewhere" box.sif sh -c 'echo $HOME; touch /elsewhere/was-here'
    says /elsewhere
    [ -e "$work/data/was-here" ]
}

@test "variables that are set for the container" {
    printf '# comment\nC=file\nD=file\n' >"$work/variables"
    s SINGULARITYENV_A=1 APPTAINERENV_B=2 exec --env-file variables --env D=option,E=5 box.sif sh -c 'echo "$A $B $C $D $E"'
    says "1 2 file option 5"
    s exec --env WRONG box.sif true
    says_no "no NAME=VALUE"
}

@test "binds" {
    mkdir -p "$work/shown"
    echo content >"$work/shown/file"
    s SINGULARITY_BIND="$work/shown:/of-variable" exec -B shown:/a:ro,/etc:/hosts-etc box.sif \
        sh -c 'cat /a/file /of-variable/file; echo x 2>/dev/null >/a/new || echo read-only; test -e /hosts-etc/passwd && echo etc'
    says $'content\ncontent\nread-only\netc'
    s exec -B /no/such box.sif true
    says_no "source path does not exist: /no/such"
    s exec -B /etc:relative box.sif true
    says_no "must begin with /"
    s exec -B /etc:/etc2:huge box.sif true
    says_no 'unknown option "huge"'
}

@test "root inside, namespaces, what is not kept" {
    s exec --fakeroot box.sif sh -c 'id -u; echo $HOME; test -d ~/'"$(basename "$work")"' && echo home'
    says $'0\n/root\nhome'
    s exec box.sif sh -c 'echo x >/x'
    [ "$status" != 0 ]
    s exec --writable-tmpfs box.sif sh -c 'echo x >/x && cat /x'
    says x
    s exec --writable box.sif true
    says_no "enroot create"
    s exec --net box.sif sh -c 'ls /sys/class/net >/dev/null; cat /proc/net/dev | grep -c :'
    says 1
    s exec --ipc --uts box.sif true
    ok
}

@test "drivers that are not there are told, and are no error" {
    s exec --nv --rocm box.sif echo runs
    says runs
    err_has "WARNING: --nv has no effect"
    err_has "WARNING: --rocm has no effect"
}

@test "in jobs, as scripts have it: srun starts a container for each rank, and they find each other" {
    needs_pmix
    s pull --force mpi.sif "docker://$R/mpi:openmpi"
    ok
    job XDG_RUNTIME_DIR="$work/run" OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_btl=self,tcp --mpi=pmix -w n1 -n2 \
        "$work/bin/singularity" exec "$work/mpi.sif" sh -c 'exec mpi-test $SLURMD_NODENAME'
    ok
    [ "$(grep -c "of 2 on n1 sum 1 " <<<"$output")" = 2 ] || { show; return 1; }
    job XDG_RUNTIME_DIR="$work/run" -n1 "$work/bin/apptainer" exec --nv "$work/box.sif" sh -c 'echo "$SLURM_PROCID"; exit 5'
    [ "$status" = 5 ] && [ "$output" = 0 ] || { show; return 1; }
}

@test "inspect" {
    s inspect --json -l -r -e "$cache/sif/env.sif"
    ok
    python3 - "$output" <<'EOF'
import json, sys
document = json.loads(sys.argv[1])
attributes = document["data"]["attributes"]
assert document["type"] == "container", document
assert "org.example.colour" in attributes["labels"], attributes
assert "runscript" in attributes and any("/env/" in name for name in attributes["environment"]), attributes
EOF
    s inspect "$cache/sif/env.sif"
    out_has "org.example.colour: blue"
    s inspect -d "$cache/sif/env.sif"
    out_has "Bootstrap: localimage"
}

@test "images that Apptainer has built, as Apptainer runs them" {
    s exec -c "$cache/sif/env.sif" cat /.singularity.d/runscript
    ok
    local ours=$output theirs
    theirs=$(cd / && "$root/tests/cluster/apptainer" "$alice" --quiet exec --no-mount home,cwd "$cache/sif/env.sif" cat /.singularity.d/runscript)
    [ "$ours" = "$theirs" ]
}

@test "Apptainer runs what pull has written" {
    s pull --force entry.sif "docker://$R/entry"
    ok
    install -o "$alice" -m 0644 "$work/box.sif" "$cache/sif/pulled-$BATS_TEST_NUMBER.sif"
    install -o "$alice" -m 0644 "$work/entry.sif" "$cache/sif/entry-$BATS_TEST_NUMBER.sif"
    for words in "exec pulled id -u" "run pulled echo a b" "inspect pulled" "exec entry env"; do
        read -ra words <<<"$words"
        run --separate-stderr "$root/tests/cluster/apptainer" "$alice" --quiet "${words[0]}" "$cache/sif/${words[1]}-$BATS_TEST_NUMBER.sif" "${words[@]:2}"
        ok
    done
    out_has "PATH="
    rm -f "$cache"/sif/{pulled,entry}-"$BATS_TEST_NUMBER".sif
}

@test "pull: names, files that are there, and words that are wrong" {
    rm -f "$work/busybox_latest.sif"
    s pull "docker://$R/busybox"
    ok
    [ "$(stat -c %a "$work/busybox_latest.sif")" = 755 ]
    s pull "docker://$R/busybox"
    says_no "exists already"
    s pull --force "docker://$R/busybox"
    ok
    s pull --dir data "docker://$R/busybox"
    ok
    [ -s "$work/data/busybox_latest.sif" ]
    s pull library://alpine
    [ "$status" = 255 ]
    s exec library://alpine true
    says_no "are not known here"
    s exec no-such.sif true
    says_no "No such file"
    s exec --no-such-option box.sif true
    says_no "unknown option --no-such-option"
    code=127 s exec box.sif no-such-command
    head -c 100000 "$work/box.sif" >"$work/short.sif"
    s exec short.sif true
    says_no truncated
}

@test "verify" {
    s verify box.sif
    says_no "there is no key ring"
}
