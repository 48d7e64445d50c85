# --container-image=x.sif: images that Apptainer has built. The same command says the same under apptainer and under srun.

setup_file() {
    load common
    "$root/tests/cluster/apptainer"
}

setup() {
    load common
    export SIF=$cache/sif
}

# What people ask an image: the words of a command, one list a line.
commands=(
    "cat /.singularity.d/labels.json"
    "cat /.singularity.d/runscript /.singularity.d/startscript"
    "cat /etc/os-release"
    "id -u"
    "env"
    "sh -c 'echo \$PATH; echo \$COLOUR; echo \$WHERE; echo \$SEEN; echo \$QUOTED; echo \$LD_LIBRARY_PATH'"
    "sh -c 'echo \$APPTAINER_NAME \$SINGULARITY_NAME \$APPTAINER_CONTAINER'"
    "stat -c %u:%a /bin/busybox"
)

# Without what differs by nature: the job and its directories, how the shell was started, and Apptainer's own settings.
ours='^(SLURM|SRUN_|PMI|HYDRA_|I_MPI_|OMPI_|PRTE_|PWD=|OLDPWD=|SHLVL=|HOME=|TMPDIR=|USER_PATH=|PROMPT_COMMAND=|TERM=|SHELL=|USER=|LOGNAME=|APPTAINER_(APPNAME|BIND|COMMAND|ENVIRONMENT)=|SINGULARITY_(BIND|ENVIRONMENT)=|SINGULARITYENV_|APPTAINERENV_|CUDA|ROCR|GPU|_=)'
essence() { grep -vE "$ours|^$" | sort; }

variables=(FOO=job COLOUR=job LANG=C SINGULARITYENV_WANTED=old APPTAINERENV_WANTED=yes SINGULARITYENV_PREPEND_PATH=/first)

# compare IMAGE: each command in both.
compare() {
    local words theirs command
    for command in "${commands[@]}"; do
        eval "words=($command)"
        # The variables of the caller are all that a job has.
        theirs=$(cd / && env -i HOME="$alice_home" PATH=/usr/bin:/bin:/usr/sbin:/sbin "${variables[@]}" \
            "$root/tests/cluster/apptainer" "$alice" --quiet exec --no-mount home,cwd "$1" "${words[@]}" 2>/dev/null | essence)
        [ -n "$theirs" ] || { echo "apptainer says nothing to: $command"; return 1; }
        job "${variables[@]}" --container-image="$1" "${words[@]}"
        ok
        [ "$(essence <<<"$output" | grep -v ^LANG=)" = "$(grep -v ^LANG= <<<"$theirs")" ] ||
            { echo "$command in $1; apptainer:"; echo "$theirs"; echo "here:"; essence <<<"$output"; return 1; }
    done
}

@test "the same output as under apptainer exec" {
    compare "$SIF/env.sif"
}

@test "the same for an image that Apptainer has made of a docker-archive" {
    compare "$SIF/docker.sif"
}

@test "scripts that only assign are told from their text: a shell that cannot be run is no obstacle" {
    local dir
    dir=$(alice_dir sif)
    unsquashfs -quiet -no-progress -offset "$(grep -abo hsqs "$SIF/docker.sif" | head -n1 | cut -d: -f1)" -dest "$dir/tree" "$SIF/docker.sif" >/dev/null
    rm "$dir/tree/bin/sh"
    printf '#!/bin/busybox false\n' >"$dir/tree/bin/sh"
    chmod 755 "$dir/tree/bin/sh"
    mksquashfs "$dir/tree" "$dir/told.sqsh" -all-root -quiet -no-progress >/dev/null
    echo 'export NODE=$(hostname)' >"$dir/tree/.singularity.d/env/91-more.sh"
    mksquashfs "$dir/tree" "$dir/run.sqsh" -all-root -quiet -no-progress >/dev/null
    job --container-image="$dir/told.sqsh" /bin/busybox sh -c 'echo $COLOUR $QUOTED'
    says "red two words"
    job --container-image="$dir/run.sqsh" /bin/busybox sh -c 'echo $COLOUR $QUOTED'
    rm -rf "$dir"
    fails "the image's scripts /.singularity.d/env failed with exit code 1"
}

@test "whoever reads the file" {
    cp "$SIF/env.sif" "$alice_home/mine.sif"
    chown "$alice:" "$alice_home/mine.sif"
    job PYXIS_TRACE=1 --container-image=./mine.sif sh -c 'echo $COLOUR $WHERE'
    says "blue in mine.sif"; err_has '"image_read_by":"squashfuse_ll: '
    job PYXIS_TRACE=1 --container-image="$SIF/env.sif" sh -c 'echo $COLOUR $WHERE'
    rm "$alice_home/mine.sif"
    says "blue in env.sif"; err_has '"image_read_by":"kernel: '; err_has '"environment_ms":'
}

@test "--container-env keeps the job's value over the scripts'" {
    job COLOUR=job --container-env=COLOUR --container-image="$SIF/env.sif" sh -c 'echo $COLOUR'
    says job
}

@test "the runscript is the entrypoint" {
    job --container-image="$SIF/env.sif" sh -c 'echo $RUN'
    says ""
    job --container-entrypoint --container-entrypoint-log --container-image="$SIF/env.sif" sh -c 'echo $RUN $COLOUR'
    says "yes blue"; err_has "entrypoint: run by the runscript"
}

@test "all tasks, and who joins, have the environment" {
    run --separate-stderr as "$alice" timeout 90 srun --quiet -n2 --container-image="$SIF/env.sif" sh -c 'echo $COLOUR'
    says $'blue\nblue'
    job --container-name=sifname --container-image="$SIF/env.sif" true
    job --container-name=sifname sh -c 'echo $COLOUR $APPTAINER_NAME'
    rm -rf "/var/lib/pyxis-data/$alice_uid/pyxis_sifname"
    says "blue env.sif"
}

@test "an overlay partition is not used, and one line says so" {
    job --container-image="$SIF/overlay.sif" sh -c 'echo $COLOUR'
    says blue
    [ "$(grep -c "overlay.sif: its overlay partition is ignored" <<<"$stderr")" = 1 ] || { show; false; }
}

# patched NAME OFFSET BYTES: a copy of an image with other bytes at that place.
patched() {
    cp "$SIF/env.sif" "$dir/$1"
    printf "$3" | dd of="$dir/$1" bs=1 seek="$2" conv=notrunc status=none
}

@test "what cannot be run is refused with the reason" {
    local dir table third
    dir=$(alice_dir sif)
    table=$(od -An -tu8 -j96 -N8 "$SIF/env.sif" | tr -d ' ')
    # The third descriptor is the partition's.
    third=$((table + 2 * 585))
    patched encrypted $((third + 201)) '\005'
    patched ext3 $((third + 201)) '\002'
    patched foreign $((third + 209)) '04'
    patched empty $((third + 25)) '\0\0\0\0\0\0\0\0'
    patched far $((third + 17)) '\0\0\0\0\0\0\0\200'
    patched long $((third + 25)) '\377\377\377\377\377\377\377\177'
    patched overlap $((third + 17)) '\000\200\000\000'
    patched twice $((third + 5)) '\001'
    patched version 43 '9'
    head -c 100000 "$SIF/env.sif" >"$dir/cut"
    while read -r name reason; do
        job --container-image="$dir/$name" true
        fails "$dir/$name: not a good SIF file: " "$reason"
    done <<'END'
encrypted its root file system is encrypted
ext3 its root file system is ext3
foreign it is for arm64, and this machine is
empty object 3, a partition or a signature, is empty
far is not within its
long is not within its
overlap overlap
twice two of its objects have the id 1
version its version is not 01
cut is not within its 100000 bytes; is it truncated?
END
    remember_host
    job --container-image="$dir/encrypted" true
    as_before
}
