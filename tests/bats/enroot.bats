# The command under the name enroot: images and containers of a user without rights, without Slurm.

setup_file() {
    load common
    export work
    work=$(alice_dir enroot)
    as "$alice" sh -c "cd $work && mkdir bin data run && chmod 0700 run && ln -s /usr/libexec/pyxis/worker bin/enroot"
    e import -o "$work/box.sqsh" "docker://$R#busybox"
    ok
}
teardown_file() { rm -rf "$work"; }

setup() {
    load common
    cd "$work" || return
    rm -rf "$work/data/pyxis/containers"
}

# e WORD...: the command, by alice in $work. VAR=VALUE words first go into her environment. `code=N e WORD...` wants that exit code.
e() {
    local vars=()
    while [[ ${1-} =~ ^[A-Za-z_][A-Za-z_0-9]*= ]]; do vars+=("$1"); shift; done
    run ${code:+"-$code"} --separate-stderr as "$alice" XDG_DATA_HOME="$work/data" XDG_RUNTIME_DIR="$work/run" "${vars[@]}" \
        sh -c 'cd "$0" && exec "$@"' "$work" timeout 120 "$work/bin/enroot" "$@"
}
# says_no TEXT: one line that begins as enroot's do, and exit code 1.
says_no() {
    [ "$status" = 1 ] && [ "$(wc -l <<<"$stderr")" = 1 ] && [[ $stderr == "[ERROR] "*"$1"* ]] || { echo "wanted: $1"; show; return 1; }
}

# The list, without containers of other tests' jobs, and without the width that their names give it.
listed() {
    e list "$@"
    output=$(grep -v '^pyxis_' <<<"$output" | sed -E 's/^(\S+) +/\1  /')
}

# running WORD...: a start in the background; $pid is the container's process.
running() {
    as "$alice" XDG_DATA_HOME="$work/data" XDG_RUNTIME_DIR="$work/run" sh -c 'cd "$0" && echo $$ >pid && exec "$@"' "$work" \
        "$work/bin/enroot" start "$@" >"$work/out" 2>&1 3>&- &
    poll 30 "the container runs" grep -qs ready "$work/out" || { cat "$work/out"; return 1; }
    pid=$(cat "$work/pid")
}

@test "import, create, start, export, remove" {
    e create box.sqsh
    ok
    listed
    says box
    e start --rw box sh -c 'echo kept >/kept; id -u'
    says "$alice_uid"
    e start box cat /kept
    says kept
    e export -o exported.sqsh box
    ok
    [ "$(stat -c %U:%a exported.sqsh)" = "$alice:644" ]
    e remove --force box
    ok
    listed
    says ""
}

@test "an existing file or container is replaced by force only" {
    for command in "import -o box.sqsh docker://$R#busybox" "create box.sqsh" "create box.sqsh" "export -o box.sqsh box"; do
        # shellcheck disable=SC2086
        e $command
        [ "$command" = "create box.sqsh" ] && [ "$status" = 0 ] || says_no "exists already: use --force"
    done
    e create --force box.sqsh
    ok
    e export --force -o box.sqsh box
    ok
}

@test "an export has what was written, and starts" {
    e create -n written box.sqsh
    e start --rw written sh -c 'mkdir /new && echo x >/new/file && rm /bin/ls'
    ok
    e export -o new.sqsh written
    ok
    e start new.sqsh sh -c 'cat /new/file; test -e /bin/ls || echo gone'
    says $'x\ngone'
}

@test "what import writes is what unsquashfs and mksquashfs know, and runs in Slurm" {
    unsquashfs -s box.sqsh >/dev/null
    job --container-image="$work/box.sqsh" cat /etc/rc
    ok
    out_has exec
}

@test "a name is made of the image's, a file gives its own" {
    e load "docker://$R#busybox"
    ok
    listed
    says busybox
    e start busybox true
    ok
    e import "docker://$R#busybox"
    ok
    [ -s busybox.sqsh ]
}

@test "the image's command, the given one, and scripts in place of it" {
    e import --force -o entry.sqsh "docker://$R#entry"
    e start -e ENTRY='export SET=here' entry.sqsh sh -c 'echo $SET'
    says here
    printf 'echo "rc: $*"\n' >"$work/rc"
    e start --rc rc box.sqsh a b
    says "rc: a b"
    e start box.sqsh sh -c 'exit 7'
    [ "$status" = 7 ]
}

@test "a file is read by a process of the user where there is FUSE for users, and else unpacked" {
    local mode
    mode=$(stat -c %a /dev/fuse)
    for case in "666 squashfuse_ll" "600 unpacked"; do
        chmod "${case% *}" /dev/fuse
        e PYXIS_TRACE=1 start --rw box.sqsh sh -c 'rm /bin/ls && echo x >/x && cat /x'
        chmod "$mode" /dev/fuse
        says x
        err_has "\"image_read_by\":\"${case#* }"
    done
}

@test "root inside, read-only or not, and nothing of the caller's variables" {
    e A=1 start box.sqsh sh -c 'id -u; echo "$A$HOME"; echo x >/x 2>/dev/null || echo read-only'
    says "$alice_uid"$'\n'"$alice_home"$'\nread-only'
    e A=1 B=2 start --root --rw -e A -e B=3 box.sqsh sh -c 'id -u; echo "$A$B$HOME"; echo x >/x && echo written'
    says $'0\n13/root\nwritten'
    e ENROOT_ROOTFS_WRITABLE=y start box.sqsh sh -c 'echo x >/x && echo written'
    says written
}

@test "mounts, of the command line and of a script" {
    mkdir -p "$work/shown"
    echo content >"$work/shown/file"
    e start -m "$work/shown:/mnt/a" --mount "$work/shown/file:/b:none:x-create=file,bind,ro" box.sqsh sh -c 'cat /mnt/a/file /b'
    says $'content\ncontent'
    printf 'environ() { echo "C=of the script"; }\nmounts() { echo "%s /c none x-create=dir,bind"; }\n' "$work/shown" >"$work/conf"
    e start --conf conf box.sqsh sh -c 'echo "$C"; cat /c/file'
    says $'of the script\ncontent'
    e start -m /no/such:/a box.sqsh true
    says_no "source path does not exist: /no/such"
    e start -m "/tmp:../../a" box.sqsh true
    [ "$status" = 1 ]
}

@test "list --fancy shows what runs, exec gets in, and both end with it" {
    e create box.sqsh
    running -e VALUE=1 box sh -c 'cd /var; echo ready; exec sleep 100'
    listed --fancy
    ok
    mapfile -t lines <<<"$output"
    [ "${lines[0]}" = "NAME  PID        COMM             STATE  STARTED   TIME         MNTNS       USERNS      COMMAND" ]
    [[ ${lines[1]} =~ ^box\ +$pid\ +sleep\ +S\ +[0-9:]+\ +[0-9:]+\ +[0-9]+\ +[0-9]+\ +sleep\ 100$ ]] || { show; return 1; }
    e exec -e MORE=2 "$pid" sh -c 'echo "$VALUE$MORE $(pwd)"; touch /tmp/here'
    says "12 /var"
    e exec "$pid" ls /tmp
    says here
    kill "$pid"
    poll 10 "the container has ended" sh -c "! kill -0 $pid 2>/dev/null"
    listed --fancy
    mapfile -t lines <<<"$output"
    [ "${lines[1]}" = box ]
    e exec "$pid" true
    says_no "process $pid does not exist"
}

@test "nobody gets into what is not his or no container" {
    running box.sqsh sh -c 'echo ready; exec sleep 100'
    e exec 1 true
    says_no "is not yours"
    run --separate-stderr as "$bob" "/usr/libexec/pyxis/worker" --version
    run --separate-stderr runuser -u "$bob" -- sh -c 'exec -a enroot /usr/libexec/pyxis/worker exec "$0" true' "$pid"
    [ "$status" != 0 ]
    run --separate-stderr runuser -u "$alice" -- bash -c 'exec -a enroot /usr/libexec/pyxis/worker exec $$ true'
    says_no "is in no container"
    kill "$pid"
}

@test "what runs is removed by force only, and what was not finished is no container" {
    e create box.sqsh
    running box sh -c 'echo ready; exec sleep 100'
    e remove box
    says_no "container box is in use by process $pid"
    e remove --force box
    ok
    kill "$pid"
    mkdir -p "$work/data/pyxis/containers/$alice_uid/half/upper"
    chown -R "$alice:" "$work/data/pyxis/containers/$alice_uid/half"
    listed
    says ""
    e create -n half box.sqsh
    ok
    e start half true
    ok
}

@test "containers of jobs are in the list, and can be removed" {
    job --container-name=of-job --container-image="$R#busybox" true
    ok
    e list
    out_has pyxis_of-job
    e start pyxis_of-job true
    says_no "srun --container-name"
    e export pyxis_of-job
    says_no "srun --container-name"
    e remove --force pyxis_of-job
    ok
    e list
    out_lacks pyxis_of-job
    # What the kernel has left in it is root's to remove.
    local left=/var/lib/pyxis-data/$alice_uid
    [ ! -e "$left/pyxis_of-job" ] && [ -n "$(find "$left" -maxdepth 1 -name '.unpacked.*')" ]
    job true
    poll 30 "a job of hers has ended" sh -c '[ -z "$(find "$0" -maxdepth 1 -name ".unpacked.*")" ]' "$left"
}

@test "remove asks, and removes what the user has closed" {
    e create -n closed box.sqsh
    e start --rw closed sh -c 'mkdir -p /a/b && touch /a/b/c && chmod 0 /a/b /a'
    ok
    e remove closed
    says_no "use --force"
    e remove --force closed
    ok
    listed
    says ""
    e remove --force closed
    says_no "there is no container closed"
}

@test "digests, versions and words that are wrong" {
    e digest "docker://$R#busybox"
    [[ $output =~ ^sha256:[0-9a-f]{64}$ ]] || { show; return 1; }
    e version
    out_has "4.1.0 (pyxis "
    e start no-such-container true
    says_no "there is no container no-such-container, and no file of this name"
    e start ./no-such.sqsh true
    says_no "No such file"
    e start --no-such-option box true
    says_no "unknown option --no-such-option"
    code=127 e start box.sqsh no-such-command
    e create -n a/b box.sqsh
    says_no slash
    e import docker://127.0.0.1:1/nothing
    says_no "failed" || says_no "127.0.0.1:1"
    e ENROOT_DATA_PATH=relative list
    says_no "not an absolute path"
}

@test "a truncated file and a full disk leave nothing" {
    head -c 100000 "$work/box.sqsh" >"$work/short.sqsh"
    e start short.sqsh true
    [ "$status" = 1 ]
    e create short.sqsh
    [ "$status" = 1 ]
    listed
    says ""
    mkdir -p "$work/small"
    mount -t tmpfs -o size=600k,mode=1777 tmpfs "$work/small"
    e ENROOT_DATA_PATH="$work/small/data" create box.sqsh
    local told=$stderr
    local left
    left=$(ls "$work/small/data/$alice_uid")
    umount "$work/small"
    [[ $told == "[ERROR] "*"and the disk of container.data_path has "* ]] || { echo "$told"; return 1; }
    [ -z "$left" ]
}

@test "nothing is left on the host by what was killed" {
    remember_host
    running box.sqsh sh -c 'echo ready; exec sleep 100'
    kill -KILL "$pid"
    as_before
}
