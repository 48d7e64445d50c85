# importer= and runtime_path= of plugstack.conf: runs on a cluster whose plugin has importer=/var/lib/pyxis-test/importer
# runtime_path=/run/pyxis-elsewhere.

setup_file() {
    load common
    export STATE=/var/lib/pyxis-test/importer.d
    rm -rf "$STATE"
    mkdir -m 1777 "$STATE"
    mkdir -p "$STATE/tree"/{bin,etc,proc,sys,dev,tmp}
    cp /bin/busybox "$STATE/tree/bin/busybox"
    ln -s busybox "$STATE/tree/bin/sh"
    ln -s busybox "$STATE/tree/bin/cat"
    echo imported >"$STATE/tree/etc/mark"
    mksquashfs "$STATE/tree" "$STATE/x.sqsh" -all-root -quiet -no-progress >/dev/null
}

setup() {
    load common
    rm -f "$STATE/calls"
}

importer() {
    printf '#!/bin/bash\nexport CALLS=%s\necho "$1 ${2-} $(id -un) ${SLURM_JOB_ID:+job} $PYXIS_RUNTIME_PATH ${PYXIS_VERSION:+version}" >>$CALLS\n%s\n' \
        "$STATE/calls" "$1" >"$test_state/importer"
    chmod 0755 "$test_state/importer"
}
called() { grep -qx "$1" "$STATE/calls"; }

@test "its file is the container, and it is told when the step has ended" {
    importer "[ \$1 = release ] || echo $STATE/x.sqsh"
    job --container-image=some.where/image:1 cat /etc/mark
    says imported
    called "get docker://some.where/image:1 $alice job /run/pyxis-elsewhere version"
    poll 10 "it was told" called "release  $alice job /run/pyxis-elsewhere version"
}

@test "its failure is the step's, with its words, and it is told too" {
    importer '[ $1 = release ] || { echo "no room on the shared disk" >&2; exit 3; }'
    job --container-image=some.where/image:1 true
    fails "failed to import docker image: some.where/image:1" "no room on the shared disk" "exit code 3"
    called "release  $alice job /run/pyxis-elsewhere version"
}

@test "a path that is none" {
    importer 'echo ../x.sqsh'
    job --container-image=some.where/image:1 true
    fails "which is not an absolute path"
    importer 'echo /etc/shadow'
    job --container-image=some.where/image:1 true
    fails "the importer's file" "/etc/shadow: Permission denied"
}

@test "an importer that hangs is named, and ended with its step" {
    importer '[ $1 = release ] || { echo $$ >'"$STATE"'/pid; exec sleep 1000; }'
    as "$alice" timeout 300 srun --job-name=importer --container-image=some.where/image:1 true >"$STATE/out" 2>&1 &
    local srun=$!
    poll 30 "it is named" grep -q "waiting for the importer $test_state/importer" "$STATE/out"
    scancel --name=importer
    wait "$srun" || true
    ended() { ! kill -0 "$(cat "$STATE/pid")" 2>/dev/null; }
    poll 20 "it has ended" ended
}

@test "files do not go through it, and one that others can write is not run" {
    importer 'exit 1'
    job --container-image="$STATE/x.sqsh" cat /etc/mark
    says imported
    chmod 0777 "$test_state/importer"
    job --container-image=some.where/image:1 true
    fails "must belong to root"
}

@test "runtime_path is where running containers are found" {
    local fifo=$alice_home/importer-fifo job
    importer "[ \$1 = release ] || echo $STATE/x.sqsh"
    rm -f "$fifo"
    mkfifo -m 0666 "$fifo"
    as "$alice" timeout 300 srun --quiet --container-image=some.where/image:1 --container-mounts="$fifo:/fifo" \
        sh -c 'echo "$SLURM_JOB_ID.$SLURM_STEP_ID" >/tmp/mine; read -r word </fifo' 3>&- &
    job=$!
    runs() { number=$(ls "/run/pyxis-elsewhere/$alice_uid" | sed -n 's/^pyxis_//p'); [ -n "$number" ]; }
    poll 30 "it runs" runs
    run --separate-stderr as "$alice" timeout 300 srun --quiet --container-name="$number:exec" cat /tmp/mine
    timeout 20 sh -c 'echo go >"$1"' sh "$fifo"
    wait "$job"
    rm "$fifo"
    says "$number"
    [ "$(stat -c '%U %a' "/run/pyxis-elsewhere/$alice_uid")" = "root 700" ]
}
