# Signals reach the tasks of a container as they reach those of a bare srun. Each check runs both ways and compares.

setup() {
    load common
    work=$(alice_dir "signals-$BATS_TEST_NUMBER")
    chown "$alice:" "$work"
}
teardown() {
    scancel --user="$alice" --name="signals-$BATS_TEST_NUMBER"
    rm -rf "$work"
}

# A step whose task tells the signals that it gets, and ends with code 3 on USR2. One shell on both sides, and no process
# beside it: shells differ in what they say of children.
telling='tell() { echo "got $1"; [ "$1" != USR2 ] || exit 3; }
for signal in HUP INT QUIT TERM USR1 USR2 CONT; do trap "tell $signal" $signal; done
mkfifo "/tmp/signals.$$"; exec 3<>"/tmp/signals.$$"; rm "/tmp/signals.$$"
echo "ready $SLURM_JOB_ID"
while :; do read -r line <&3; done'
listen() { begin --job-name="signals-$BATS_TEST_NUMBER" "${container[@]}" "$@" busybox sh -c "$telling"; }
told() { poll 10 "the task got $1" grep -q "^got $1" "$work/out"; }
# srun that ends the step itself may be gone before slurmstepd has said so.
finish_early() {
    finish
    stderr=$(grep -v '^slurmstepd' <<<"$stderr")
}
told_twice() { [ "$(grep -c "^got $1" "$work/out")" = 2 ]; }

@test "signals that srun gets go to the task" {
    sent_to_srun() {
        listen
        kill -USR1 "$srun"
        told USR1
        kill -USR2 "$srun"
        finish
    }
    alike sent_to_srun
    [ "$status" = 3 ]
}

@test "SIGTERM and SIGHUP of srun end the step" {
    local signal
    ended() {
        listen
        kill "-$signal" "$srun"
        finish_early
    }
    for signal in TERM HUP; do
        alike ended
        [ "$status" != 0 ]
        [ "$status" != 124 ]
    done
}

@test "SIGINT once is a question, twice goes to the task and ends the step" {
    interrupted() {
        listen
        kill -INT "$srun"
        poll 10 "srun tells the state" grep -q "one more within" "$work/err"
        kill -INT "$srun"
        told INT
        finish_early
    }
    alike interrupted
    [ "$status" != 0 ]
    out_has "got INT"
}

@test "scancel --signal, of the step and of the job" {
    signalled() {
        local signal
        listen -n2
        for signal in USR1 HUP INT; do
            scancel "--signal=$signal" "$id.0"
            poll 10 "both tasks got it" told_twice "$signal"
        done
        scancel --signal=QUIT "$id"
        poll 10 "both tasks got it" told_twice QUIT
        scancel --signal=USR2 "$id.0"
        finish
    }
    alike signalled
    [ "$status" = 3 ]
}

@test "scancel: SIGTERM, and SIGKILL for those who do not listen" {
    cancelled() {
        listen
        scancel "$id"
        finish
    }
    alike cancelled
    out_has "got TERM"
    [ "$status" = 137 ]
}

@test "scancel ends a command without handlers at once" {
    cancelled() {
        begin --job-name="signals-$BATS_TEST_NUMBER" "${container[@]}" sh -c 'echo "ready $SLURM_JOB_ID"; exec sleep 60'
        scancel "$id"
        finish
    }
    alike cancelled
    # By SIGTERM: the SIGKILL that follows after KillWait would make it 137.
    [ "$status" = 143 ]
}

@test "SIGSTOP and SIGCONT by scancel" {
    stopped() {
        listen
        scancel --signal=STOP "$id.0"
        poll 10 "the task is stopped" all_in_state T
        scancel --signal=CONT "$id.0"
        poll 10 "the task goes on" none_in_state T
        kill -USR2 "$srun"
        finish
    }
    all_in_state() { [ "$(shell_state)" = "$1" ]; }
    none_in_state() { [[ $(shell_state) != *$1* ]]; }
    # Of the task's shell: it has the job's number in its environment.
    shell_state() {
        local pid
        for pid in $(pgrep -u "$alice" -x 'busybox|sh'); do
            ! grep -qzx "SLURM_JOB_ID=$id" "/proc/$pid/environ" || ps -o stat= -p "$pid" | cut -c1
        done
    }
    alike stopped
    [ "$status" = 3 ]
}

@test "process group, session, signal mask and limits are those of a bare task" {
    # Relations and not numbers.
    # shellcheck disable=SC2016
    local script='set -- $(cat /proc/self/stat); [ "$5" = "$$" ] && echo "group: own"
        set -- $(cat /proc/$$/stat); [ "$6" != "$$" ] && echo "session: not own"; echo "terminal: $7"
        grep -E "^(Sig(Blk|Ign|Cgt)|Cpus_allowed_list)" /proc/$$/status; cat /proc/$$/limits /proc/$$/oom_score_adj
        umask'
    # The same shell on both sides: shells differ in the signals that they ignore.
    same busybox sh -c "$script"
    ok
    out_has "session: not own"
    out_has "Max processes"
    same --propagate=NOFILE,CORE sh -c 'ulimit -n; ulimit -c'
    ok
}
