# The environment of a container's task, and --container-env.

setup() { load common; }

@test "the image's variables are set, and win over the job's" {
    job FROM_IMAGE=job SHARED=job --container-image="$R#rich" sh -c 'echo "$FROM_IMAGE $SHARED $EMPTY|$WITH"'
    says "image image |equals=signs and spaces"
}

@test "the job's other variables stay" {
    box MINE="two words" sh -c 'echo "$MINE"'
    says "two words"
}

@test "the locale of the job does not enter, unless it is asked for" {
    box LANG=C.UTF-8 LANGUAGE=en LC_ALL=C sh -c 'echo "${LANG-unset} ${LANGUAGE-unset} ${LC_ALL-unset}"'
    says "unset unset unset"
    box LANG=C.UTF-8 LC_ALL=C --container-env=LANG,LC_ALL sh -c 'echo "${LANG-unset} ${LC_ALL-unset}"'
    says "C.UTF-8 C"
    job LANG=C.UTF-8 --container-image="$R#rich" sh -c 'echo "$LANG"'
    says "xx_XX.UTF-8"
}

@test "--container-env keeps the job's value" {
    job SHARED=job FROM_IMAGE=job --container-image="$R#rich" --container-env=SHARED sh -c 'echo "$SHARED $FROM_IMAGE"'
    says "job image"
    job SHARED=job FROM_IMAGE=job --container-image="$R#rich" --container-env=SHARED,FROM_IMAGE sh -c 'echo "$SHARED $FROM_IMAGE"'
    says "job job"
    job PYXIS_CONTAINER_ENV=SHARED SHARED=job --container-image="$R#rich" sh -c 'echo "$SHARED"'
    says "job"
}

@test "an unset name in --container-env changes nothing" {
    job --container-image="$R#rich" --container-env=SHARED,NOT_SET_AT_ALL sh -c 'echo "$SHARED ${NOT_SET_AT_ALL-unset}"'
    says "image unset"
}

@test "a variable set to nothing keeps that over the image's" {
    job SHARED= --container-image="$R#rich" --container-env=SHARED sh -c 'echo "<$SHARED>"'
    says "<>"
}

@test "PATH is the image's" {
    job --container-image="$R#rich" sh -c 'echo $PATH'
    says "/opt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

@test "PATH of an image that has none is the usual one, not the host's, unless that is asked for" {
    job PATH=/host/bin:/usr/bin:/bin --container-image="$R#bare" /busybox sh -c 'echo $PATH'
    says "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    job PATH=/host/bin:/usr/bin:/bin --container-env=PATH --container-image="$R#bare" /busybox sh -c 'echo $PATH'
    says "/host/bin:/usr/bin:/bin"
}

@test "root inside is called so and has root's home; otherwise HOME and USER pass" {
    box --container-remap-root sh -c 'echo $HOME $USER $LOGNAME'
    says "/root root $alice"
    box --container-remap-root --container-env=HOME,USER sh -c 'echo $HOME $USER'
    says "$alice_home $alice"
    box sh -c 'echo $HOME $USER $LOGNAME'
    says "$alice_home $alice $alice"
}

@test "what names nothing inside passes as it is, but for a TMPDIR that Slurm cannot make there" {
    box TMPDIR=/tmp/mine HOSTNAME=login LD_LIBRARY_PATH=/opt/none sh -c 'test -d $TMPDIR && echo $TMPDIR $HOSTNAME $LD_LIBRARY_PATH'
    says "/tmp/mine login /opt/none"
    box TMPDIR=/scratch/none sh -c 'echo $TMPDIR'
    says /tmp
    err_has "Unable to create TMPDIR [/scratch/none]"
}

@test "it is the same in srun, sbatch and salloc" {
    local dir facts='for v in SHARED FROM_IMAGE MINE KEPT LANG TERM PATH HOME MASTER_ADDR WORLD_SIZE OMP_NUM_THREADS; do eval "echo $v=\${$v-unset}"; done'
    local vars=(SHARED=job MINE=job LANG=C.UTF-8 TERM=vt100 PYTORCH_VERSION=1 MASTER_ADDR=mine)
    local options=(--container-image="$R#rich" --container-env=SHARED -w n1 -n1)
    dir=$(alice_dir same)
    printf '%s\n' "$facts" >"$dir/facts"
    chmod 0644 "$dir/facts"
    as "$alice" "${vars[@]}" timeout 300 srun --quiet "${options[@]}" --container-mounts="$dir" sh "$dir/facts" >"$dir/srun" 2>"$dir/err"
    as "$alice" "${vars[@]}" timeout 300 salloc --quiet "${options[@]}" --container-mounts="$dir" srun --quiet sh "$dir/facts" >"$dir/salloc" 2>>"$dir/err"
    as "$alice" "${vars[@]}" timeout 300 sbatch --quiet --wait --output="$dir/out" "${options[@]}" --container-mounts="$dir" --wrap "sh $dir/facts"
    grep -v '^pyxis: ' "$dir/out" >"$dir/sbatch"
    [ "$(grep -c = "$dir/srun")" = 11 ] || { cat "$dir"/*; false; }
    diff "$dir/srun" "$dir/salloc" && diff "$dir/srun" "$dir/sbatch"
    grep -qx SHARED=job "$dir/srun" && grep -qx FROM_IMAGE=image "$dir/srun" && grep -qx LANG=xx_XX.UTF-8 "$dir/srun"
    grep -qx MASTER_ADDR=mine "$dir/srun" && grep -qx WORLD_SIZE=1 "$dir/srun"
    rm -rf "$dir"
}

@test "Slurm's variables stay, per task" {
    job -n3 --container-image="$R#busybox" sh -c 'echo $SLURM_PROCID $SLURM_LOCALID $SLURM_NTASKS ${SLURM_JOB_ID:+id}'
    ok
    [ "$(sort <<<"$output")" = "$(printf '%s\n' '0 0 3 id' '1 1 3 id' '2 2 3 id')" ] || { show; false; }
}

@test "TERM is the job's" {
    box TERM=vt100 sh -c 'echo $TERM'
    says vt100
}

@test "PyTorch images get the variables of a distributed run, per task" {
    job -N1 -n2 --container-image="$R#pytorch" sh -c 'echo $RANK $LOCAL_RANK $WORLD_SIZE $MASTER_PORT $((61000 + SLURM_JOB_ID % 4536)) $OMP_NUM_THREADS ${MASTER_ADDR:+addr}'
    ok
    while read -r rank local_rank world port wanted threads addr; do
        [ "$rank" = "$local_rank" ]
        [ "$world $threads $addr" = "2 1 addr" ] || { show; false; }
        [ "$port" = "$wanted" ]
    done <<<"$output"
    [ "$(cut -d' ' -f1 <<<"$output" | sort)" = "$(printf '0\n1')" ]
}

@test "PyTorch over two nodes: ranks of the step, local ranks of the node, and the step's first node for all" {
    job -N2 --ntasks-per-node=2 --container-image="$R#pytorch" sh -c \
        'echo $SLURMD_NODENAME $MASTER_ADDR $WORLD_SIZE $((RANK - SLURM_PROCID)) $LOCAL_RANK $((MASTER_PORT - 61000 - SLURM_JOB_ID % 4536))'
    ok
    [ "$(sort <<<"$output")" = "$(printf '%s\n' 'n1 n1 4 0 0 0' 'n1 n1 4 0 1 0' 'n2 n1 4 0 0 0' 'n2 n1 4 0 1 0')" ] || { show; false; }
    # A step of one node in a job of two: its own first node.
    run --separate-stderr as "$alice" timeout 300 salloc --quiet -N2 -n2 srun --quiet -N1 -n1 -w n2 \
        --container-image="$R#pytorch" sh -c 'echo $MASTER_ADDR $WORLD_SIZE $RANK'
    says "n2 1 0"
}

@test "PyTorch's variables are never changed when they are set" {
    job MASTER_ADDR=mine MASTER_PORT=1 OMP_NUM_THREADS=7 -n2 --container-image="$R#pytorch" sh -c 'echo $MASTER_ADDR $MASTER_PORT $OMP_NUM_THREADS'
    says "$(printf 'mine 1 7\nmine 1 7')"
}

@test "no PyTorch variables without PyTorch, no thread limit for a single task" {
    box sh -c 'echo ${MASTER_ADDR-none} ${RANK-none} ${OMP_NUM_THREADS-none}'
    says "none none none"
    job --container-image="$R#pytorch" sh -c 'echo ${OMP_NUM_THREADS-none} $WORLD_SIZE'
    says "none 1"
}

@test "nothing of the host's daemons enters" {
    box sh -c 'env | grep -iE "^(LISTEN_|INVOCATION_ID|NOTIFY_SOCKET|PYXIS_WORKER)"; ls /proc/self/fd | wc -l'
    [ "$output" -le 4 ] || { show; false; }
}
