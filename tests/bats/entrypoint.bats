# --container-entrypoint, --container-entrypoint-log, and what an entrypoint may do. The image `entry` has one that does
# what the variable ENTRY says and then runs its arguments.

setup() { load common; }

# entry SCRIPT ARGUMENTS...: a job in that image, its entrypoint doing SCRIPT.
entry() {
    local script=$1
    shift
    job ENTRY="$script" --container-image="$R#entry" --container-entrypoint --container-env=ENTRY "$@"
}

# alive WORDS: processes that have them in their command line.
alive() { pgrep -f -c -- "^$1" || true; }
ends() { poll 10 "the end of $1" none_alive "$1"; }
none_alive() { [ "$(alive "$1")" = 0 ]; }

@test "what the entrypoint exports reaches the task" {
    job --container-image="$R#rich" --container-entrypoint sh -c 'echo $ENTERED'
    says yes
    entry 'export NEW="two words" PATH=/x:$PATH; HIDDEN=1' sh -c 'echo "$NEW ${HIDDEN-hidden} $PATH"'
    says "two words hidden /x:/opt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

@test "it is not run unless it is asked for" {
    job --container-image="$R#rich" sh -c 'echo ${ENTERED-no}'
    says no
    job --container-image="$R#rich" --no-container-entrypoint sh -c 'echo ${ENTERED-no}'
    says no
}

@test "PYXIS_CONTAINER_ENTRYPOINT, PYXIS_CONTAINER_ENTRYPOINT_LOG, and the command line wins" {
    job PYXIS_CONTAINER_ENTRYPOINT=1 --container-image="$R#rich" sh -c 'echo ${ENTERED-no}'
    says yes
    job PYXIS_CONTAINER_ENTRYPOINT=1 --container-image="$R#rich" --no-container-entrypoint sh -c 'echo ${ENTERED-no}'
    says no
    job PYXIS_CONTAINER_ENTRYPOINT=0 --container-image="$R#rich" --container-entrypoint sh -c 'echo ${ENTERED-no}'
    says yes
    PYXIS_CONTAINER_ENTRYPOINT_LOG=1 entry 'echo hello'
    job PYXIS_CONTAINER_ENTRYPOINT_LOG=1 ENTRY='echo hello' --container-env=ENTRY --container-image="$R#entry" \
        --container-entrypoint true
    ok
    err_has "pyxis: entrypoint: hello"
}

@test "its words over the job's, the job's where it takes one away" {
    job SHARED=job GONE=job OTHER=job ENTRY='export SHARED=entry OTHER=entry; unset GONE' --container-env=ENTRY \
        --container-image="$R#entry" --container-entrypoint sh -c 'echo $SHARED $OTHER $GONE'
    says "entry entry job"
}

@test "Slurm's variables and the shell's own stay the task's" {
    entry 'export SLURM_PROCID=77 SLURM_JOB_ID=1 PMI_RANK=5 PWD=/x OLDPWD=/y SHLVL=9' -n2 --kill-on-bad-exit \
        sh -c '[ $SLURM_JOB_ID != 1 ] && [ ${PMI_RANK-none} = none ] && echo $SLURM_PROCID'
    ok
    [ "$(sort <<<"$output")" = "$(printf '0\n1')" ] || { show; false; }
}

@test "--container-env is set for it, with the job's value; other variables of the job are not" {
    job ENTRY='export SAW="$SHARED ${OTHER-none} ${SLURM_JOB_ID:+job} ${SLURM_PROCID-none}"' SHARED=job OTHER=job \
        --container-env=ENTRY,SHARED --container-image="$R#entry" --container-entrypoint sh -c 'echo $SAW; echo $SHARED $OTHER'
    says "$(printf 'job none job none\njob job')"
}

@test "it runs once per node, for all tasks" {
    local dir
    dir=$(alice_dir entry)
    entry 'echo $SLURMD_NODENAME$SLURM_NODEID >>/out/ran; export WHEN=$(cat /proc/uptime)' -N2 -n8 \
        --container-mounts="$dir:/out" sh -c 'echo $SLURM_NODEID $WHEN'
    ok
    [ "$(wc -l <"$dir/ran")" = 2 ] || { cat "$dir/ran"; false; }
    [ "$(sort -u <<<"$output" | wc -l)" = 2 ] && [ "$(wc -l <<<"$output")" = 8 ] || { show; false; }
    rm -rf "$dir"
}

@test "it is in the container, where a task is and what a task is" {
    local facts='pwd; id -u; grep -E "^(Cap|NoNewPrivs|Seccomp:|Umask)" /proc/self/status; ulimit -a; cat /proc/self/uid_map; readlink /proc/self/ns/user; readlink /proc/self/ns/mnt'
    (umask 0027 && entry "{ $facts; } >/tmp/facts; readlink /proc/self/fd/0 >/tmp/stdin; ls /proc/self/fd | wc -l >/tmp/fds" \
        sh -c "{ $facts; } | diff /tmp/facts - && cat /tmp/stdin /tmp/fds" && says "$(printf '/dev/null\n4')")
}

@test "--container-workdir and --container-remap-root are for it too" {
    entry 'export AT=$(pwd) WHO=$(id -u) HOUSE=$HOME' --container-workdir=/tmp --container-remap-root sh -c 'echo $AT $WHO $HOUSE'
    says "/tmp 0 /root"
}

@test "--container-entrypoint-log shows what it printed, also for many tasks, and it is silent otherwise" {
    entry 'echo one; echo two >&2; echo three >/dev/stderr' --container-entrypoint-log -n2 true
    ok
    for word in one two three; do
        [ "$(grep -c "pyxis: entrypoint: $word" <<<"$stderr")" = 1 ] || { show; false; }
    done
    [ -z "$output" ] || { show; false; }
    entry 'echo one; echo two >&2' true
    ok
    err_lacks entrypoint
}

@test "it prints a lot, and control characters" {
    entry 'seq 1 200000; head -c 300000 /dev/zero; printf "\033[2J\r\nend\n"' true
    ok
    entry 'seq 1 5000; printf "\033[31mred\n"; exit 1' --container-entrypoint-log true
    [ "$status" != 0 ]
    [ "$(wc -l <<<"$stderr")" -lt 1100 ] || { show; false; }
    [[ $stderr != *[$'\x01'-$'\x08\x0b'-$'\x1f']* ]] || { show; false; }
    err_has "[31mred"
}

@test "its failure is the step's, with what it printed and why" {
    entry 'echo some reason >&2; exit 7' -n4 echo no
    [ "$status" != 0 ] && [ -z "$output" ] || { show; false; }
    err_has "pyxis: entrypoint: some reason"
    [ "$(grep -c "error: pyxis: the image's entrypoint /opt/bin/entry failed with exit code 7: try --no-container-entrypoint" <<<"$stderr")" = 1 ] || { show; false; }
    entry 'kill -SEGV $$' true
    dies "the image's entrypoint /opt/bin/entry was killed by SIGSEGV"
}

@test "one that does not run what it is given" {
    entry 'echo hello; exit 0' echo no
    [ "$status" != 0 ] && [ -z "$output" ] || { show; false; }
    err_has "entrypoint: hello"
    err_has "error: pyxis: the image's entrypoint /opt/bin/entry ended without running the command that it was given: try --no-container-entrypoint"
    job --container-image="$R#entry-shell-form" --container-entrypoint echo no
    [ "$status" != 0 ] && [ -z "$output" ] || { show; false; }
    err_has "entrypoint: shell form"
    err_has "ended without running the command"
    job --container-image="$R#entry-shell-form" sh -c 'echo yes'
    says yes
}

@test "one that is missing, that is searched, and an image without a shell" {
    job --container-image="$R#entry-missing" --container-entrypoint true
    fails "the image's entrypoint /opt/bin/missing: No such file or directory"
    job ENTRY='export FOUND=yes' --container-env=ENTRY --container-image="$R#entry-searched" --container-entrypoint sh -c 'echo $FOUND'
    says yes
    job --container-image="$R#entry-no-shell" --container-entrypoint /busybox true
    fails "the image has an entrypoint but no sh" "--no-container-entrypoint"
    job --container-image="$R#entry-no-shell" --no-container-entrypoint /busybox true
    ok
}

@test "an image without entrypoint is none the wiser" {
    box --container-entrypoint --container-entrypoint-log echo fine
    says fine
}

@test "one that closes all descriptors, or uses them for itself" {
    entry 'export A=1; exec 0<&- 1>&- 2>&- 3>&- 7>&- 9>&-' sh -c 'echo $A'
    says 1
    entry 'export A=2; exec 3>&1 7>/dev/null 9>/tmp/x' sh -c 'echo $A'
    says 2
}

@test "one that hangs is named, and scancel ends it at once" {
    local log=$BATS_TEST_TMPDIR/log id code=0
    as "$alice" ENTRY='sleep 44401 & sleep 44401' timeout 300 srun --job-name=hang --container-image="$R#entry" \
        --container-entrypoint --container-env=ENTRY true >"$log" 2>&1 &
    poll 30 "the progress line" grep -q "waiting for the image's entrypoint /opt/bin/entry" "$log"
    id=$(squeue -h -n hang -o %i)
    scancel "$id"
    ends "sleep 44401"
    wait $! || code=$?
    # By SIGTERM: the SIGKILL that follows after KillWait would make it 137.
    [ "$code" = 143 ] || { echo "code $code"; cat "$log"; false; }
}

# Run in a container: the command lines of all processes.
commands='for f in /proc/[0-9]*/cmdline; do tr "\\0" " " <$f; echo; done 2>/dev/null'

@test "what it leaves running runs as long as the step, and not longer" {
    local start
    for start in 'sleep 44403 &' '(setsid sleep 44403 </dev/null >/dev/null 2>&1 &)' '"$@"; sleep 44403;' '(trap "" TERM HUP; sleep 44403) &'; do
        entry "$start" sh -c "$commands | grep -qE '^(sleep 44403|sh -c while kill.*) \$' && echo runs"
        says runs
        ends "sleep 44403"
        ends "sh -c while kill -STOP"
    done
}

@test "what it leaves running belongs to the first task's control groups, and its user" {
    entry 'sleep 44404 &' sh -c 'for p in /proc/[0-9]*; do
        [ "$(tr "\\0" " " <$p/cmdline)" != "sleep 44404 " ] || { diff /proc/self/cgroup $p/cgroup && stat -c %u $p; }; done 2>/dev/null'
    says "$alice_uid"
    ends "sleep 44404"
}

@test "sbatch and salloc" {
    local dir out
    dir=$(alice_dir entry)
    as "$alice" sbatch --wait --quiet --output="$dir/out" --export=ALL,ENTRY='export A=batch' --container-image="$R#entry" \
        --container-entrypoint --container-env=ENTRY --wrap 'echo $A'
    [ "$(tail -n1 "$dir/out")" = batch ] || { cat "$dir/out"; false; }
    rm -rf "$dir"
    run --separate-stderr as "$alice" ENTRY='export A=alloc' timeout 300 salloc --quiet --container-image="$R#entry" \
        --container-entrypoint --container-env=ENTRY srun --quiet sh -c 'echo $A'
    says alloc
}
