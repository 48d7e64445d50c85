# srun --pty: a person at a terminal, with and without a container.

setup() { load common; }

# person ARGUMENTS... <SCRIPT: srun at a terminal; see the script "terminal".
person() {
    run "$BATS_TEST_DIRNAME/terminal" "$alice" srun --quiet "$@"
    output=$(grep -v '^pyxis: import' <<<"$output")
}

both() {
    local script
    script=$(cat)
    person --pty "$@" <<<"$script"
    [ "$status" = 0 ] || { echo "bare srun:"; echo "$output"; return 1; }
    bare=$output
    person --pty --container-image="$R#${image-busybox}" "$@" <<<"$script"
    [ "$status" = 0 ] || { echo "in a container:"; echo "$output"; return 1; }
}

@test "the task has a terminal of its own, and its size" {
    both sh -c 'test -t 0 && test -t 1 && test -t 2 && echo all; busybox stty size; busybox tty; : </dev/tty && echo tty' <<'SCRIPT'
end
SCRIPT
    [ "$(grep -v /dev/pts <<<"$output")" = "$(grep -v /dev/pts <<<"$bare")" ] || { echo "$bare"; echo "$output"; false; }
    [[ $output == all$'\n''24 80'$'\n'/dev/pts/* ]] || { echo "$output"; false; }
    [[ $output == *$'\n'tty$'\n'* ]]
}

@test "a new size of the window is handed on" {
    both sh -c 'trap "busybox stty size; exit 4" WINCH; echo ready; while :; do sleep 1 & wait $!; done' <<'SCRIPT'
see ready
size 33 111
see 33 111
end
SCRIPT
    [[ $output == *"exit code 4"* ]] || { echo "$output"; false; }
}

@test "Ctrl-C is a signal for the command, and not for srun" {
    both busybox sh -c 'trap "echo interrupted" INT; echo ready; until read -r line; do :; done; echo "read: $line"; exit 5' <<'SCRIPT'
see ready
type \x03
see interrupted
type word\r
see read: word
end
SCRIPT
    [[ $output == *"exit code 5"* ]] || { echo "$output"; false; }
}

@test "job control: Ctrl-Z, jobs, fg, bg, Ctrl-C" {
    # A shell without line editing, the same on both sides.
    image=library/debian:12 both dash -i <<'SCRIPT'
see $
type sh -c "echo started; exec sleep 1000"\r
see started
see started
type \x1a
see Stopped
see $
type jobs\r
see Stopped
type bg\r
type echo still here\r
see still here
see still here
type fg\r
see exec sleep
type \x03
see $
type echo code=$?\r
see code=130
type exit 6\r
end
SCRIPT
    [[ $output == *"exit code 6"* ]] || { echo "$output"; false; }
    [[ $output != *"can't access tty"* ]]
}

@test "Ctrl-D is the end of the input" {
    both cat <<'SCRIPT'
type some words\r
see some words
see some words
type \x04
end
SCRIPT
    [[ $output == *"exit code 0"* ]]
}

@test "the terminal of a remapped root" {
    person --pty --container-image="$R#busybox" --container-remap-root sh -c 'id -u; test -t 0 && stty size' <<<end
    [[ $output == 0$'\n''24 80'$'\n'*"exit code 0"* ]] || { echo "$output"; false; }
}
