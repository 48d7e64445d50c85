# --container-name: containers that are kept, found again, joined while they run, and made once by many steps.

setup() {
    load common
    data=/var/lib/pyxis-data/$alice_uid
    name=t$BATS_TEST_NUMBER-$$
    dir=$data/pyxis_$name
}

teardown() {
    scancel --user="$alice" --name="$name"
    wait
    rm -rf "$dir" "$data/pyxis_$name"-*
}

# named [MODE] ARGUMENTS...: a step in the named container.
named() {
    local mode=
    case $1 in :*) mode=$1; shift ;; esac
    job --container-name="$name$mode" "$@"
}
# make: makes it, with a file /kept.
make() {
    named --container-image="$R#busybox" --container-writable sh -c 'echo first >/kept'
    ok
}
is_running() { [ -n "$(ls "/run/pyxis/$alice_uid/pyxis_$name" 2>/dev/null)" ]; }
# hold: a step that keeps the container running until `let_go`.
hold() {
    gate=$(alice_dir gate)
    mkfifo -m 0666 "$gate/fifo"
    as "$alice" timeout 300 srun --quiet --job-name="$name" --container-name="$name" --container-image="$R#busybox" \
        --container-writable --container-mounts="$gate:/gate" sh -c 'read -r word </gate/fifo' >"$BATS_TEST_TMPDIR/held" 2>&1 3>&- &
    holder=$!
    poll 30 "the container runs" is_running
}
let_go() {
    timeout 20 sh -c 'echo go >"$1"' sh "$gate/fifo"
    wait "$holder"
    rm -rf "$gate"
}
# Run in a container: which one it is.
namespace='readlink /proc/self/ns/mnt'

@test "what is written stays, and the image is not asked for again" {
    make
    # No registry has this one.
    named --container-image="$R#never-asked-for" cat /kept
    says first
    err_lacks "importing docker image"
    named cat /kept
    says first
    [ "$(stat -c '%U %a' "$data" "$dir" | sort -u)" = "$alice 700" ]
}

@test "an unnamed container takes nothing along" {
    make
    box test ! -e /kept
    ok
}

@test "environment and working directory of the image stay with the container" {
    local image
    image=$R#rich
    job --container-image="$image" env
    ok
    local wanted=$output
    job --container-name="$name" --container-image="$image" true
    ok
    job --container-name="$name" env
    ok
    [ "$(grep -vE '^(SLURM|HOSTNAME|TMPDIR)' <<<"$output" | sort)" = "$(grep -vE '^(SLURM|HOSTNAME|TMPDIR)' <<<"$wanted" | sort)" ]
}

@test "each start decides about writing, root, home and mounts" {
    make
    named --container-readonly sh -c 'id -u; echo x >/kept'
    [ "$status" != 0 ] && [ "$output" = "$alice_uid" ]
    named --container-remap-root --container-writable sh -c 'id -u; echo root >/kept; cat /kept'
    says $'0\nroot'
    named --container-mounts=/usr/share:/mnt/share sh -c 'test -d /mnt/share/doc && cat /kept'
    says root
    touch "$alice_home/$name"
    named --container-mount-home sh -c 'ls "$HOME/$1" && ! ls "/$1"' sh "$name"
    rm "$alice_home/$name"
    says "$alice_home/$name"
}

@test "a name without an image that does not exist" {
    named true
    fails "container $name does not exist" "--container-image"
    [ ! -e "$dir" ]
}

@test "a start that fails makes no container" {
    named --container-image="$R#no-such-image" true
    fails "failed to import docker image"
    named --container-image="$R#busybox" --container-mounts=/no/such/source:/x true
    fails "source path does not exist: /no/such/source"
    [ ! -e "$dir" ]
    named true
    fails "does not exist"
}

@test "create makes it, and fails when it exists or runs" {
    named :create --container-image="$R#busybox" true
    ok
    named :create --container-image="$R#busybox" true
    fails "container $name exists already"
    hold
    named :create --container-image="$R#busybox" true
    fails "container $name exists already"
    let_go
}

@test "exec joins, and fails when it does not run" {
    named :exec --container-image="$R#busybox" true
    fails "container $name is not running"
    make
    named :exec true
    fails "container $name is not running"
    hold
    named :exec cat /kept
    says first
    let_go
    named :exec true
    fails "is not running"
}

@test "auto joins while it runs, and uses the files afterwards" {
    make
    hold
    named sh -c "$namespace; echo joined >/kept"
    ok
    local joined=$output
    named sh -c "$namespace; cat /kept"
    says "$joined"$'\njoined'
    let_go
    named --container-mounts="$alice_home:/mnt/home" sh -c 'test -d /mnt/home && cat /kept'
    says joined
    err_lacks ignoring
}

@test "no_exec never joins, but works on the same files" {
    make
    hold
    named sh -c "$namespace"
    local joined=$output
    named :no_exec --container-mounts="$alice_home:/mnt/home" sh -c "$namespace; test -d /mnt/home && cat /kept"
    ok
    out_lacks "$joined"
    out_has first
    named :no_exec --container-writable sh -c 'echo second >/kept'
    ok
    named :exec cat /kept
    says second
    named :no_exec --container-readonly sh -c 'echo third >/kept'
    [ "$status" != 0 ]
    let_go
    named cat /kept
    says second
}

@test "options that have no effect on a running container are named" {
    hold
    named --container-mounts=/usr:/mnt/usr test ! -e /mnt/usr
    ok
    err_has "pyxis: ignoring --container-mounts when attaching to a running container"
    [ "$(grep -c ignoring <<<"$stderr")" = 1 ]
    named --container-devices=vendor.com/class=none true
    ok
    err_has "pyxis: ignoring --container-devices when attaching to a running container"
    named --container-readonly --container-remap-root id -u
    says "$alice_uid"
    err_has "pyxis: ignoring --container-readonly when attaching"
    err_has "pyxis: ignoring --container-remap-root when attaching"
    named --container-writable --container-image="$R#busybox" true
    ok
    err_lacks ignoring
    let_go
}

@test "--container-unshare and a running container: it is apart already, or cannot be joined" {
    local kind
    hold
    for kind in net ipc uts; do
        named --container-unshare=$kind true
        fails "container pyxis_$name runs, and is not in a separate"
    done
    let_go
    gate=$(alice_dir gate)
    mkfifo -m 0666 "$gate/fifo"
    as "$alice" timeout 300 srun --quiet --job-name="$name" --container-name="$name" --container-unshare=net,ipc \
        --container-mounts="$gate:/gate" sh -c 'read -r word </gate/fifo' 3>&- &
    holder=$!
    poll 30 "the container runs" is_running
    for kind in net ipc; do
        named --container-unshare=$kind readlink /proc/self/ns/$kind
        ok
        [ "$output" != "$(readlink /proc/self/ns/$kind)" ]
        local apart=$output
        # Without a word about it too.
        named readlink /proc/self/ns/$kind
        says "$apart"
    done
    let_go
}

@test "who joins takes his own working directory and environment" {
    hold
    job MINE=yes --container-name="$name" --container-workdir=/etc sh -c 'pwd; echo "$MINE"'
    says $'/etc\nyes'
    let_go
}

@test "a container runs as long as one of its steps does" {
    hold
    local outer=$gate/second
    mkfifo -m 0666 "$outer"
    as "$alice" timeout 300 srun --quiet --job-name="$name" --container-name="$name" sh -c 'echo here; read -r word </gate/second' \
        >"$BATS_TEST_TMPDIR/second" 2>&1 3>&- &
    local second=$!
    poll 30 "the second step runs" grep -q here "$BATS_TEST_TMPDIR/second"
    timeout 20 sh -c 'echo go >"$1"' sh "$gate/fifo"
    wait "$holder"
    # Found through the one that joined.
    named :exec test -p /gate/second
    ok
    timeout 20 sh -c 'echo go >"$1"' sh "$outer"
    wait "$second"
    named :exec true
    fails "is not running"
    rm -rf "$gate"
}

@test "an unnamed container can be joined by the number of its step" {
    gate=$(alice_dir gate)
    mkfifo -m 0666 "$gate/fifo"
    as "$alice" timeout 300 srun --quiet --job-name="$name" --container-image="$R#busybox" --container-mounts="$gate:/gate" \
        sh -c 'echo "$SLURM_JOB_ID.$SLURM_STEP_ID" >/tmp/mine; cp /tmp/mine /gate/number; read -r word </gate/fifo' 3>&- &
    holder=$!
    poll 30 "the step runs" test -s "$gate/number"
    local number
    number=$(cat "$gate/number")
    job --container-name="$number" cat /tmp/mine
    says "$number"
    job --container-name="$number:exec" cat /tmp/mine
    says "$number"
    let_go
    job --container-name="$number" true
    fails "container $number does not exist"
}

@test "two steps one after the other never join, however fast" {
    make
    local round
    for round in 1 2 3 4 5 6; do
        named --container-mounts="$alice_home:/mnt/h$round" sh -c "$namespace; test -d /mnt/h$round"
        ok
        err_lacks ignoring
    done
}

@test "a process that a task has left behind does not spoil the files" {
    make
    named --container-writable sh -c 'setsid sleep 20 >/dev/null 2>&1 & echo again >/kept'
    ok
    named cat /kept
    says again
}

@test "fifty steps at once make one container and are all in it" {
    gate=$(alice_dir gate)
    mkfifo -m 0666 "$gate/fifo"
    # Each waits for the end of the fifo, so that all of them are there together.
    exec 9<>"$gate/fifo"
    as "$alice" timeout 300 sh -c '
        for number in $(seq 50); do
            srun --quiet --overlap --job-name="$1" --container-name="$1" --container-image="$2" --container-writable \
                --container-mounts="$3:/gate" sh -c "exec 3</gate/fifo; echo >/made.$number; readlink /proc/self/ns/mnt >/gate/ns.$number; read -r word <&3; exit 0" \
                >"$3/out.$number" 2>&1 || echo "$number" >>"$3/failed" &
        done
        wait' sh "$name" "$R#busybox" "$gate" 3>&- 9>&- &
    holder=$!
    all_there() { [ "$(find "$gate" -name 'ns.*' -size +0 | wc -l)" = 50 ]; }
    poll 80 "all run" all_there || { cat "$gate"/out.*; false; }
    exec 9>&-
    wait "$holder"
    [ ! -e "$gate/failed" ] || { cat "$gate"/out.*; false; }
    [ "$(cat "$gate"/ns.* | sort -u | wc -l)" = 1 ]
    named sh -c 'ls / | grep -c ^made'
    says 50
    rm -rf "$gate"
}

@test "fifty steps at once use one container that exists" {
    make
    as "$alice" timeout 300 sh -c '
        for number in $(seq 50); do
            srun --quiet --overlap --job-name="$1" --container-name="$1" --container-writable sh -c "cat /kept; : >/used.$number" &
        done
        wait' sh "$name" >"$BATS_TEST_TMPDIR/out" 2>&1
    [ "$(grep -cx first "$BATS_TEST_TMPDIR/out")" = 50 ] || { cat "$BATS_TEST_TMPDIR/out"; false; }
    named sh -c 'ls / | grep -c ^used'
    says 50
}

@test "fifty steps at once that never join use one container that exists" {
    make
    as "$alice" timeout 300 sh -c '
        for number in $(seq 50); do
            srun --quiet --overlap --job-name="$1" --container-name="$1:no_exec" --container-writable sh -c "cat /kept; : >/used.$number" &
        done
        wait' sh "$name" >"$BATS_TEST_TMPDIR/out" 2>&1
    [ "$(grep -cx first "$BATS_TEST_TMPDIR/out")" = 50 ] || { cat "$BATS_TEST_TMPDIR/out"; false; }
    named sh -c 'ls / | grep -c ^used'
    says 50
}

@test "tasks of a step share it, on each node one" {
    named -n16 -N1 --container-image="$R#busybox" sh -c "$namespace"
    ok
    [ "$(sort -u <<<"$output" | wc -l)" = 1 ]
}

# Both nodes of the test cluster are one machine with one data path: they share the container, as no two machines do. What
# counts is that nobody waits for the other for ever, that all tasks run, and that the container is whole afterwards.
@test "a step over two nodes with a name, made, used again and joined" {
    local round
    for round in 1 2 3; do
        named -N2 -n8 --container-image="$R#busybox" --container-writable sh -c 'echo "$SLURM_PROCID" >>/ranks; echo $SLURM_NODEID'
        ok
        [ "$(sort <<<"$output" | uniq -c | wc -l)" = 2 ] && [ "$(wc -l <<<"$output")" = 8 ] || { show; false; }
    done
    named cat /ranks
    ok
    [ "$(sort -n <<<"$output" | uniq -c | awk '{ print $1 }' | sort -u)" = 3 ] || { show; false; }
    hold
    named -N2 -n8 sh -c "$namespace"
    ok
    let_go
    named :exec true
    fails "is not running"
}

@test "the image's entrypoint: each start's, not of who joins" {
    gate=$(alice_dir gate)
    mkfifo -m 0666 "$gate/fifo"
    local entry=(ENTRY='echo x >>/gate/runs; export ENTERED=$(wc -l </gate/runs)')
    local options=(--container-env=ENTRY --container-entrypoint --container-mounts="$gate:/gate")
    job "${entry[@]}" --container-name="$name" --container-image="$R#entry" "${options[@]}" -n2 sh -c 'echo $ENTERED'
    says $'1\n1'
    job "${entry[@]}" --container-name="$name" "${options[@]}" sh -c 'echo $ENTERED'
    says 2
    as "$alice" "${entry[@]}" timeout 300 srun --quiet --job-name="$name" --container-name="$name" "${options[@]}" \
        sh -c 'read -r word </gate/fifo' 3>&- &
    holder=$!
    poll 30 "the container runs" is_running
    named -n2 sh -c 'echo $ENTERED'
    says $'3\n3'
    err_lacks ignoring
    named --container-entrypoint sh -c 'echo $ENTERED'
    says 3
    err_has "pyxis: ignoring --container-entrypoint when attaching to a running container"
    let_go
}

@test "names that cannot be" {
    run --separate-stderr as "$alice" srun --container-name=a/b --container-image="$R#busybox" true
    refused "slash"
    run --separate-stderr as "$alice" srun --container-name="$(printf 'x%.0s' {1..250})" --container-image="$R#busybox" true
    refused "longer than"
    run --separate-stderr as "$alice" srun --container-name=x:join --container-image="$R#busybox" true
    refused "unknown mode"
}

@test "another user's container is another container" {
    make
    run --separate-stderr as "$bob" timeout 300 srun --quiet --container-name="$name" cat /kept
    fails "container $name does not exist"
    hold
    run --separate-stderr as "$bob" timeout 300 srun --quiet --container-name="$name:exec" cat /kept
    fails "is not running"
    let_go
    run as "$bob" ls "$data"
    [ "$status" != 0 ]
}

@test "a forged record opens no pack" {
    ! images_are_unpacked || skip "records of unpacked containers name no packs"
    local record secret
    job --container-image="$R#rich" true
    ok
    make
    record=$dir/container.json
    # The digest of another layer of the store, in place of the container's own.
    secret=$(basename "$(find "$store"/packs-1 -name '*.sqsh' | grep -v "$(grep -oE '"pack":"sha256:[0-9a-f]*' "$record" | cut -d: -f3)" | head -n1)" .sqsh)
    [ -n "$secret" ]
    sed -i -E "s/(\"pack\":\"sha256:)[0-9a-f]+/\1$secret/" "$record"
    named cat /kept
    fails "container.json was not written by this node"
    named --container-image="$R#busybox" true
    fails "container.json was not written by this node"
    [ -e "$dir/upper/kept" ]
}

@test "layers that the store has lost are asked of the registry again" {
    ! images_are_unpacked || skip "unpacked containers need no layers"
    local pack
    make
    pack=$(grep -oE '"pack":"sha256:[0-9a-f]*' "$dir/container.json" | cut -d: -f3)
    [ -e "$store/packs-1/$pack.sqsh" ]
    rm -f "$store/packs-1/$pack."*
    named cat /kept
    says first
    [ -e "$store/packs-1/$pack.sqsh" ]
}

@test "the directories of running containers and the key are closed to users" {
    hold
    local path
    for path in "/run/pyxis/$alice_uid" "$store/key"; do
        run as "$alice" ls -l "$path/." "$path"
        [ "$status" != 0 ] && [[ $output == *"ermission denied"* ]]
    done
    let_go
}
