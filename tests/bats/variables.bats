# PYXIS_CONTAINER_*: each variable says what its option says, in srun, sbatch and salloc.

setup() {
    load common
    work=$(alice_dir "variables-$BATS_TEST_NUMBER")
    name=variables-$BATS_TEST_NUMBER-$$
    mkdir "$work/data"
    echo mounted >"$work/data/file"
    chmod -R a+rX "$work/data"
    variables=(ENTRY='echo an entrypoint; export ENTERED=yes' SHARED=job
        PYXIS_CONTAINER_IMAGE="$R#entry" PYXIS_CONTAINER_MOUNTS="$work/data:/mnt/data" PYXIS_CONTAINER_WORKDIR=/mnt/data
        PYXIS_CONTAINER_NAME="$name" PYXIS_CONTAINER_SAVE="$work/saved.sqsh" PYXIS_CONTAINER_MOUNT_HOME=yes
        PYXIS_CONTAINER_REMAP_ROOT=true PYXIS_CONTAINER_ENTRYPOINT=1 PYXIS_CONTAINER_ENTRYPOINT_LOG=y
        PYXIS_CONTAINER_WRITABLE=TRUE PYXIS_CONTAINER_READONLY=No PYXIS_CONTAINER_ENV=ENTRY,SHARED
        PYXIS_CONTAINER_UNSHARE=net,uts)
}
teardown() { rm -rf "$work" "/var/lib/pyxis-data/$alice_uid/pyxis_$name"; }

# A script that shows what the variables ask for.
facts() {
    printf '#!/bin/sh\npwd; cat file; id -u; echo "$ENTERED $SHARED"; test -O "/root/%s" && echo home
touch /written && echo writable; tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d " "\n' "$(basename "$work")"
}
expected=$'/mnt/data\nmounted\n0\nyes job\nhome\nwritable\nlo'

# all_done ERRORS: the container was kept, saved, and its entrypoint shown.
all_done() {
    grep -q "pyxis: entrypoint: an entrypoint" <<<"$1"
    grep -q "pyxis: exported container pyxis_$name to $work/saved.sqsh" <<<"$1"
    [ -e "/var/lib/pyxis-data/$alice_uid/pyxis_$name/upper/written" ]
    unsquashfs -l "$work/saved.sqsh" | grep -qx squashfs-root/written
}

@test "srun" {
    job "${variables[@]}" sh -c "$(facts)"
    says "$expected"
    all_done "$stderr"
}

@test "sbatch: the script itself" {
    facts | install -o "$alice" -m 0755 /dev/stdin "$work/script"
    run --separate-stderr as "$alice" "${variables[@]}" timeout 300 sbatch --quiet --wait --output="$work/out" "$work/script"
    ok
    [ "$(grep -v '^pyxis: \|^slurmstepd: ' "$work/out")" = "$expected" ] || { cat "$work/out"; false; }
    all_done "$(cat "$work/out")"
}

@test "salloc: the steps inside" {
    run --separate-stderr as "$alice" "${variables[@]}" timeout 300 salloc --quiet srun --quiet sh -c "$(facts)"
    says "$expected"
    all_done "$stderr"
}

@test "what is wrong in them is refused before there is a job, by all three" {
    local tool variable
    printf '#!/bin/sh\necho ran\n' | install -o "$alice" -m 0755 /dev/stdin "$work/script"
    for variable in PYXIS_CONTAINER_NAME=a/b PYXIS_CONTAINER_SAVE=/tmp/ PYXIS_CONTAINER_ENV=A,,B PYXIS_CONTAINER_UNSHARE=moon \
        PYXIS_CONTAINER_WRITABLE=perhaps PYXIS_CONTAINER_ENTRYPOINT_LOG= PYXIS_CONTAINER_WORKDIR=; do
        for tool in srun sbatch salloc; do
            run --separate-stderr as "$alice" PYXIS_CONTAINER_IMAGE="$R#busybox" "$variable" timeout 300 $tool "$work/script"
            [ "$status" != 0 ] && [ -z "$output" ] || { show; false; }
            [ "$(grep -c "^$tool: error: pyxis: ${variable%%=*}" <<<"$stderr")" = 1 ] || { echo "$tool $variable"; show; false; }
        done
    done
}
