# Standard input and output of tasks in a container are srun's business, as without one. Checks run both ways and compare.

setup() {
    load common
    work=$(alice_dir "io-$BATS_TEST_NUMBER")
}
teardown() { rm -rf "$work"; }

# fed TEXT ARGUMENTS...: like `same`, with this on srun's standard input.
fed() {
    local text=$1 bare
    shift
    feed() { run --separate-stderr as_fed "$text" "$@"; }
    feed "$@"
    bare=$(outcome)
    feed --container-image="$R#busybox" "$@"
    [ "$(outcome)" = "$bare" ] || { echo "bare srun:"; echo "$bare"; show; return 1; }
}
as_fed() {
    local text=$1
    shift
    # shellcheck disable=SC2016
    as "$alice" sh -c 'text=$0; printf %s "$text" | timeout 300 srun --quiet "$@"' "$text" "$@"
}

@test "input goes to all tasks, to one, or to none" {
    fed 'some words' -n2 cat
    says "some wordssome words"
    fed 'some words' -n3 --input=1 sh -c 'echo "$SLURM_PROCID:$(cat)"'
    ok
    [ "$(sort <<<"$output")" = "$(printf '0:\n1:some words\n2:')" ]
    fed 'some words' -n2 --input=none sh -c 'echo "$SLURM_PROCID:$(cat)"'
    ok
    out_lacks words
}

@test "much input and much output arrive whole" {
    run --separate-stderr as "$alice" sh -c "head -c 20000000 /dev/urandom >'$work/in'; md5sum <'$work/in' >'$work/sum'
        srun --quiet --container-image='$R#busybox' cat <'$work/in' | md5sum | cmp - '$work/sum' && echo whole"
    says whole
}

@test "input from a file, output to files of tasks" {
    echo from-a-file >"$work/in"
    local container
    for container in "" "--container-image=$R#busybox"; do
        rm -f "$work"/out*
        # shellcheck disable=SC2086
        job -n2 $container --chdir="$work" --input="$work/in" --output="$work/out%t" --error="$work/err%t" sh -c 'echo "$SLURM_PROCID $(cat)"; echo err$SLURM_PROCID >&2'
        [ "$status" = 0 ] || { show; cat "$work"/err*; false; }
        [ "$(cat "$work/out0" "$work/out1")" = "$(printf '0 from-a-file\n1 from-a-file')" ]
        [ "$(grep -hv ^pyxis: "$work/err0" "$work/err1")" = "$(printf 'err0\nerr1')" ]
        [ "$(stat -c %U "$work/out1")" = "$alice" ]
    done
}

@test "--open-mode=append and truncate" {
    local mode
    for mode in append truncate; do
        echo before >"$work/log"
        chown "$alice:" "$work/log"
        job --container-image="$R#busybox" --open-mode=$mode --output="$work/log" echo after
        ok
        [ "$mode" = truncate ] || [ "$(head -n1 "$work/log")" = before ]
        [ "$mode" = append ] || [ "$(head -n1 "$work/log")" != before ]
        [ "$(tail -n1 "$work/log")" = after ]
    done
}

@test "--label, --unbuffered, several lines of several tasks" {
    same -n3 --label sh -c 'echo one; echo two >&2'
    ok
    out_has "2: one"
    err_has "2: two"
    same -n2 --unbuffered sh -c 'printf "no newline"'
    says "no newlineno newline"
}
