# The end of a task is told as srun tells it of a task without a container. Each check runs both ways and compares.

setup() { load common; }

# The last words of the container's run are looked at too, so that a comparison of two failures to start proves nothing.
@test "exit codes of the command" {
    same sh -c 'echo here; exit 0'
    says here
    same sh -c 'echo here; exit 7'
    [ "$status" = 7 ]
    [ "$output" = here ]
    same sh -c 'exit 255'
    [ "$status" = 255 ]
}

@test "a command that does not exist, and one that is not executable" {
    same no-such-command
    dies "execve(): no-such-command: No such file or directory"
    [ "$status" = 2 ]
    same /no/such/command
    [ "$status" = 2 ]
    same /etc/passwd
    dies "execve(): /etc/passwd: Permission denied"
    [ "$status" = 13 ]
    # The shell's own codes for the same.
    same sh -c 'no-such-command 2>/dev/null; echo $?; /etc/passwd 2>/dev/null; echo $?'
    says "$(printf '127\n126')"
}

@test "a task that a signal ends" {
    local signal
    for signal in 1 2 6 9 11 15; do
        same sh -c "kill -$signal \$\$"
        [ "$status" = "$((128 + signal))" ]
    done
}

@test "the highest code of several tasks" {
    same -n4 sh -c 'exit $SLURM_PROCID'
    [ "$status" = 3 ]
    same -N2 -n2 sh -c 'exit $((SLURM_PROCID * 9))'
    [ "$status" = 9 ]
}

@test "--kill-on-bad-exit ends the other tasks" {
    same -n3 --kill-on-bad-exit=1 sh -c '[ "$SLURM_PROCID" != 1 ] || exit 5; exec sleep 60'
    [ "$status" = 143 ]
}

@test "--kill-on-bad-exit=0 lets the other tasks end" {
    same -n2 --kill-on-bad-exit=0 sh -c '[ "$SLURM_PROCID" != 1 ] || exit 5; read -r line; echo "end of input"'
    [ "$status" = 5 ]
    [ "$output" = "end of input" ]
}

@test "--wait ends the tasks that are left" {
    same -n2 --wait=1 sh -c '[ "$SLURM_PROCID" != 1 ] || exit 0; exec sleep 60'
    [ "$status" = 137 ]
}

@test "a step that could not enter its container ends with 1, whatever its tasks do" {
    box -n3 --container-workdir=/no/such/directory true
    [ "$status" = 1 ]
}
