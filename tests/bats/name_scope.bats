# container_scope=job: containers with a name are the job's, and go away with it. Runs on a cluster of its own, whose plugin
# has other arguments than the defaults.

setup() {
    load common
    [[ $(<"$test_state/plugstack.conf") == *container_scope=job* ]]
    data=/var/lib/pyxis-data/$alice_uid
    name=s$BATS_TEST_NUMBER-$$
}

teardown() {
    scancel --user="$alice" --name="$name"
    wait
}

# in_job SCRIPT: alice's job of one node that runs it; `step` in it is a step in the named container.
in_job() {
    run --separate-stderr as "$alice" timeout 300 salloc --quiet --job-name="$name" -w n1 sh -c '
        image=$1 name=$2 data=$3
        step() { srun --quiet --container-name="$name" --container-image="$image" --container-writable "$@"; }
        '"$1" sh "$R#busybox" "$name" "$data"
}
no_containers() { [ -z "$(ls "$data" 2>/dev/null | grep -e "$name" -e "^pyxis_[0-9]*_[0-9]")" ]; }
nothing_runs() { [ -z "$(find "/run/pyxis/$alice_uid" -mindepth 1 ! -name lock 2>/dev/null)" ]; }

@test "a container is the job's, and goes away with it" {
    in_job '
        step sh -c "echo kept >/kept; mkdir -p /a/b; chmod 0 /a/b"
        step cat /kept
        ls "$data"'
    ok
    [[ $output =~ ^kept$'\n'.*pyxis_([0-9]+)_$name ]]
    poll 20 "the container goes away" no_containers
    poll 20 "nothing is left of its steps" nothing_runs
    [[ $(sinfo -h -o %T | sort -u) != *drain* ]]
}

@test "another job has another container of the same name" {
    in_job 'step sh -c "echo kept >/kept"; mkfifo "$HOME/$name"; read -r word <"$HOME/$name"' &
    has_container() { ls "$data" 2>/dev/null | grep -q "_$name\$"; }
    poll 30 "the first container is there" has_container
    in_job 'step cat /kept'
    [ "$status" != 0 ]
    err_has "/kept"
    timeout 20 sh -c 'echo go >"$1"' sh "$alice_home/$name"
    wait
    rm -f "$alice_home/$name"
    poll 20 "both go away" no_containers
}

@test "a running container without a name is found within its job" {
    in_job '
        mkfifo "$HOME/$name"
        srun --quiet --overlap --container-image="$image" sh -c "echo mine >/tmp/mine; echo ready; read -r word" \
            <"$HOME/$name" >"$HOME/$name.out" &
        exec 9>"$HOME/$name"
        # The first step that asks for a number gets 0.
        until grep -qs ready "$HOME/$name.out"; do sleep 0.1; done
        srun --quiet --overlap --container-name="$SLURM_JOB_ID.0:exec" cat /tmp/mine
        exec 9>&-
        wait'
    rm -f "$alice_home/$name" "$alice_home/$name.out"
    says mine
    poll 20 "nothing is left" nothing_runs
}

@test "a batch job's container is found by its script's steps" {
    local dir
    dir=$(alice_dir batch)
    cat >"$dir/script" <<SCRIPT
#!/bin/sh
srun --quiet --container-name=$name --container-image="$R#busybox" --container-writable sh -c 'echo kept >/kept'
srun --quiet --container-name=$name cat /kept
SCRIPT
    run as "$alice" timeout 300 sbatch --quiet --wait --job-name="$name" --output="$dir/out" "$dir/script"
    [ "$(tail -n1 "$dir/out")" = kept ] || { cat "$dir/out"; false; }
    rm -rf "$dir"
    poll 20 "the container goes away" no_containers
}

@test "a clean-up that fails drains no node and says why" {
    in_job '
        step true
        container=$(echo "$data"/pyxis_"$SLURM_JOB_ID"_"$name")
        echo "$container"'
    ok
    poll 20 "it goes away" no_containers
    # A directory of root's in a container, put there by hand, is not the user'\''s to remove.
    local container hook=$BATS_TEST_TMPDIR/go
    mkfifo -m 0666 "$alice_home/$name"
    run true
    as "$alice" timeout 300 salloc --quiet --job-name="$name" -w n1 sh -c '
        srun --quiet --container-name="$1" --container-image="$2" true; read -r word <"$HOME/$1"' sh "$name" "$R#busybox" 3>&- &
    has_container() { ls "$data" 2>/dev/null | grep -q "_$name\$"; }
    poll 30 "the container is there" has_container
    container=$data/$(ls "$data" | grep "_$name\$")
    poll 30 "it is whole" test -e "$container/container.json"
    mkdir -p "$container/upper/roots"
    touch "$container/upper/roots/file"
    local mark
    mark=$(wc -l <"$test_state/log/slurmd-n1")
    timeout 20 sh -c 'echo go >"$1"' sh "$alice_home/$name"
    wait
    told() { tail -n +"$mark" "$test_state/log/slurmd-n1" | grep -q "pyxis: clean up after a job: cannot remove $container"; }
    poll 20 "slurmd's log says so" told
    [[ $(sinfo -h -o %T | sort -u) != *drain* ]]
    [ -e "$container/upper/roots/file" ]
    rm -rf "$container" "${alice_home:?}/$name"
}

@test "the end of a job leaves the containers of others alone" {
    mkdir -p "$data/pyxis_1_$name" "$data/pyxis_$name"
    chown "$alice:" "$data/pyxis_1_$name" "$data/pyxis_$name"
    in_job 'step true'
    ok
    poll 20 "nothing is left" nothing_runs
    [ -d "$data/pyxis_1_$name" ] && [ -d "$data/pyxis_$name" ]
    rm -r "$data/pyxis_1_$name" "$data/pyxis_$name"
}

@test "execute_entrypoint=1: every start runs it, unless told otherwise; who joins has what it exported" {
    job --container-image="$R#rich" -n2 sh -c 'echo ${ENTERED-no}'
    says $'yes\nyes'
    job --container-image="$R#rich" --no-container-entrypoint sh -c 'echo ${ENTERED-no}'
    says no
    job PYXIS_CONTAINER_ENTRYPOINT=0 --container-image="$R#rich" sh -c 'echo ${ENTERED-no}'
    says no
    in_job '
        image=${image%#*}#rich
        step sh -c "echo \${ENTERED-no}"
        srun --quiet --container-name="$name" sh -c "echo \${ENTERED-no}"
        srun --quiet --container-name="$name" --no-container-entrypoint sh -c "echo \${ENTERED-no}"
        mkfifo "$HOME/$name"
        srun --quiet --overlap --container-name="$name" sh -c "read -r word" <"$HOME/$name" &
        exec 9>"$HOME/$name"
        until srun --quiet --overlap --container-name="$name:exec" sh -c "echo joined \${ENTERED-no}" 2>/dev/null; do :; done
        exec 9>&-
        wait'
    rm -f "$alice_home/$name"
    says $'yes\nyes\nno\njoined yes'
    poll 20 "the container goes away" no_containers
}

@test "execute_entrypoint=1: a batch script in a container, and its steps" {
    local dir
    dir=$(alice_dir batch)
    printf '%s\n' '#!/bin/sh' "#SBATCH --container-image=$R\\#rich" 'echo "${ENTERED-no} $(pwd)"' | install -o "$alice" -m 0755 /dev/stdin "$dir/script"
    run as "$alice" timeout 300 sbatch --quiet --wait --job-name="$name" --output="$dir/out" "$dir/script"
    [ "$(tail -n1 "$dir/out")" = "yes /opt/work" ] || { cat "$dir/out"; false; }
    rm -rf "$dir"
}
