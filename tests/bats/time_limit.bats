# Time limits. Slurm looks for jobs beyond theirs every half minute, so all jobs of this file run beside each other.

setup_file() {
    load common
    work=$(alice_dir time-limit)
    export work
    local way
    for way in bare box import; do
        local container=()
        [ "$way" = bare ] || container=(--container-image="$R#busybox")
        [ "$way" != import ] || container=(--container-image="$H#stall-layer/time-limit-$$")
        # shellcheck disable=SC2016
        as "$alice" sh -c 'out=$0; timeout 300 srun "$@" >"$out" 2>"$out.err"; echo "$?" >"$out.code"' "$work/$way" \
            --job-name="time-limit-$way" --time=1 --signal=USR1@55 "${container[@]}" \
            busybox sh -c 'trap "echo warned" USR1; trap "echo TERM" TERM; echo "ready $SLURM_JOB_ID"
                mkfifo "/tmp/time.$$"; exec 3<>"/tmp/time.$$"; rm "/tmp/time.$$"; while :; do read -r line <&3; done' \
            3>&- &
    done
    poll 150 "all jobs end" all_ended
}
all_ended() { [ "$(cat "$work"/*.code 2>/dev/null | wc -l)" = 3 ]; }
teardown_file() {
    load common
    scancel --user="$alice" --name=time-limit-bare,time-limit-box,time-limit-import
    rm -rf "$work"
}
setup() { load common; }
# What a job printed and how srun ended, without numbers and times; who of several is first does not matter.
told() { sed -E 's/^ready .*/ready/; s/^\[[^]]*\]//; s/[0-9]+\.0|[0-9T:.-]{10,}//g' "$work/$1" "$work/$1.err" "$work/$1.code" | grep -v '^pyxis: ' | sort; }

@test "a task in a container is warned (--signal), terminated and killed as a bare one" {
    [ "$(told box)" = "$(told bare)" ] || { told bare; told box; false; }
    grep -q '^warned' "$work/box"
    grep -q '^TERM' "$work/box"
    grep -q "DUE TO TIME LIMIT" "$work/box.err"
}

@test "a step whose import never ends is ended by its time limit, and not by the warning before" {
    [ "$(cat "$work/import.code")" != 0 ]
    [ "$(cat "$work/import.code")" != 124 ]
    [ ! -s "$work/import" ]
    grep -q "DUE TO TIME LIMIT" "$work/import.err" || { cat "$work/import.err"; false; }
    # It was not silent meanwhile.
    grep -q "pyxis: importing" "$work/import.err"
    run pgrep -f "^worker (download|layer)"
    [ "$status" != 0 ]
}
