# Nodes where nobody can make user namespaces (tests/cluster/up no-userns): images are unpacked, and a task enters its container
# with a right that it has kept for that alone.

setup() { load common; }
teardown() {
    scancel --user="$alice"
    rm -rf "${data:?}"/pyxis_nouser* "${work:-/nonexistent}"
}

data=/var/lib/pyxis-data/$(id -u pyxis-alice)
nothing_left() { [ -z "$(find "$data" -maxdepth 1 -name '.unpacked.*' 2>/dev/null)" ]; }
rights='grep -E "^(Cap...|NoNewPrivs|Seccomp):" /proc/self/status | tr -d "\n\t "'
none=CapInh:0000000000000000CapPrm:0000000000000000CapEff:0000000000000000CapBnd:0000000000000000CapAmb:0000000000000000NoNewPrivs:1Seccomp:2

@test "a container starts: its files, environment, mounts and working directory; the trace says why it was unpacked" {
    work=$(alice_dir work)
    echo from-host >"$work/file"
    box PYXIS_TRACE=1 OF_JOB=1 --container-mounts="$work:/mnt/x" --container-workdir=/mnt/x sh -c \
        'id -u; stat -c %u /bin/busybox; pwd; cat file; echo $OF_JOB; echo back >back; touch /new 2>&1'
    [ "$output" = "$(printf '%s\n%s\n/mnt/x\nfrom-host\n1\ntouch: /new: Read-only file system' "$alice_uid" "$alice_uid")" ] ||
        { show; return 1; }
    err_has '"image_read_by":"unpacked: files of an image cannot be shown as the user'
    [ "$(cat "$work/back")" = back ]
    [ "$(stat -c %U "$work/back")" = "$alice" ]
    poll 10 "nothing is left" nothing_left
}

@test "a task has no capability, no way to get one, and cannot change mounts" {
    box --container-writable sh -c "$rights; echo"'
        for try in "umount /proc" "umount -l /" "mount -t tmpfs x /tmp" "chroot / true" "mount -o remount,rw /proc"; do
            ! $try 2>/dev/null || echo "can $try"
        done
        chown 0:0 /bin/busybox && stat -c %u /bin/busybox'
    says "$(printf '%s\n%s' "$none" "$alice_uid")"
}

@test "a task that waits for its image has three rights, none effective, and the user cannot get at it" {
    work=$(alice_dir work)
    cd "$work"
    as "$alice" sh -c 'cd "$0"; ulimit -c unlimited; exec timeout 300 srun --propagate=CORE "$@"' "$work" \
        --container-image="$H#slow-layer/no-userns-$$" echo ran >"$work/out" 2>&1 3>&- &
    background=$!
    poll 30 "a task waits" pgrep -u "$alice" -x pyxis-task
    task=$(pgrep -u "$alice" -x pyxis-task | head -n1)
    # To administer, to change the root directory, and to give up the bounding set.
    [ "$(sed -n 's/^Cap\(Inh\|Prm\|Eff\|Amb\):\t//p' "/proc/$task/status" | tr '\n' ' ')" = \
        "0000000000000000 0000000000240100 0000000000000000 0000000000000000 " ] || { cat "/proc/$task/status"; false; }
    for file in environ mem maps root cwd ns/mnt fd/0; do
        [ -e "/proc/$task/$file" ] || [ -L "/proc/$task/$file" ]
        ! as "$alice" sh -c '[ -e "$0" ] && head -c1 "$0"' "/proc/$task/$file" 2>/dev/null || { echo "$file"; false; }
    done
    # PTRACE_SEIZE
    says_no=$(as "$alice" python3 -c 'import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
print(libc.ptrace(0x4206, int(sys.argv[1]), None, None), os.strerror(ctypes.get_errno()))' "$task")
    [ "$says_no" = "-1 Operation not permitted" ]
    as "$alice" kill -QUIT "$task"
    ! wait "$background" || false
    ! grep -E 'core dumped|^ran' "$work/out" || false
    [ -z "$(find "$work" -name 'core*')" ]
}

@test "a batch script and a task with a prolog of the user's have no capability" {
    work=$(alice_dir work)
    printf '#!/bin/sh\n%s\necho\n' "$rights" >"$work/script"
    as "$alice" timeout 300 sbatch --quiet --wait --output="$work/out" --container-image="$R#busybox" "$work/script"
    [ "$(grep ^Cap "$work/out")" = "$none" ] || { cat "$work/out"; false; }
    printf '#!/bin/sh\necho "print $(%s)"\n' "$rights" >"$work/prolog"
    chmod 0755 "$work/prolog"
    box --task-prolog="$work/prolog" --container-mounts="$work" sh -c "$rights"
    says "$(printf '%s\n%s' "$none" "$none")"
}

@test "several tasks and nodes share the container, and each has its input and exit code" {
    box -N2 -n4 --container-writable sh -c 'echo $SLURM_PROCID; exit $((SLURM_PROCID == 3 ? 7 : 0))'
    [ "$status" = 7 ]
    [ "$(sort <<<"$output")" = "$(printf '0\n1\n2\n3')" ]
}

@test "a name: kept, found again, joined by another step while it runs" {
    job --container-image="$R#busybox" --container-name=nouser --container-writable sh -c 'echo kept >/kept'
    ok
    job --container-name=nouser cat /kept
    says kept
    work=$(alice_dir work)
    begin --nodelist=n1 --container-image="$R#busybox" --container-name=nouser2 --container-writable --container-mounts="$work:/w" \
        sh -c 'echo mine >/mine; echo ready $SLURM_JOB_ID; until [ -e /w/go ]; do sleep 0.1; done'
    job --jobid="$id" --overlap --container-name=nouser2:exec sh -c "$rights; echo; cat /mine"
    as "$alice" touch "$work/go"
    says "$(printf '%s\nmine' "$none")"
    finish
    ok
}

@test "namespaces apart from the node's are made, and are not the user's" {
    box --container-unshare=net,ipc,uts sh -c "$rights"'; echo
        tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d " "; echo x >/dev/shm/x && cat /dev/shm/x
        ip link set lo down 2>/dev/null || echo no; hostname other 2>/dev/null || echo no'
    says "$(printf '%s\nlo\nx\nno\nno' "$none")"
}

@test "an image's entrypoint runs with the same rights, before the tasks" {
    job ENTRY="export GOT=\$($rights)" --container-image="$R#entry" --container-entrypoint --container-env=ENTRY \
        sh -c 'echo $GOT; '"$rights"
    says "$(printf '%s\n%s' "$none" "$none")"
}

@test "a container is saved" {
    work=$(alice_dir work)
    box --container-writable --container-save="$work/saved.sqsh" sh -c 'echo saved >/saved'
    ok
    job --container-image="$work/saved.sqsh" cat /saved
    says saved
}

@test "root inside is refused with what to switch on, and what failed leaves nothing" {
    remember_host
    box --container-remap-root true
    fails "--container-remap-root needs user namespaces" "user.max_user_namespaces"
    box --container-workdir=/nowhere true
    fails "/nowhere"
    as_before new-packs
}

@test "steps without a container keep nothing" {
    job sh -c 'grep -E "^Cap(Prm|Eff|Amb)" /proc/self/status | sort -u -k2 | cut -f2; grep NoNewPrivs /proc/self/status | cut -f2'
    says "$(printf '0000000000000000\n0')"
}
