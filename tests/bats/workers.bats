# Who downloads and unpacks an image: processes of the service user, without any right, and nothing of the job's in them.

setup() { load common; }
teardown() { scancel --user="$alice" --name="workers-$BATS_TEST_NUMBER"; }

# caged ROLE: there are workers of this role, and all of them are what they should be. One that has just been started is not
# in its cage yet.
caged() {
    local pid count=0 expected
    expected=$(printf '%s\n' "Uid:$(printf " $(id -u pyxis)%.0s" 1 2 3 4)" "Gid:$(printf " $(id -g pyxis)%.0s" 1 2 3 4)" Groups: \
        Cap{Inh,Prm,Eff,Bnd,Amb}:\ 0000000000000000 'NoNewPrivs: 1' 'Seccomp: 2' 'cwd /' 'environ 0')
    for pid in $(pgrep -f "^worker $1"); do
        [ "$(look "$pid")" = "$expected" ] || { diff <(look "$pid") - <<<"$expected"; return 1; }
        count=$((count + 1))
    done 2>/dev/null
    [ "$count" -gt 0 ]
}
look() {
    grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:)' "/proc/$1/status" | tr -s '\t ' ' ' | sed 's/ $//'
    echo "cwd $(readlink "/proc/$1/cwd")"
    echo "environ $(tr -d '\0' <"/proc/$1/environ" | wc -c)"
    find "/proc/$1/fd" -lname '/home/*' -o -lname "$test_state/*"
}

@test "the workers of an import are the service user's, caged, and know nothing of the job" {
    as "$alice" SECRET=mine timeout 300 srun --quiet --job-name="workers-$BATS_TEST_NUMBER" \
        --container-image="$H#slow-layer/workers-$$" true >"$BATS_TEST_TMPDIR/out" 2>&1 3>&- &
    poll 30 "the workers are caged" caged download || { caged download; false; }
    poll 30 "the workers are caged" caged layer || { caged layer; false; }
    scancel --user="$alice" --name="workers-$BATS_TEST_NUMBER"
    wait $! || true
}
