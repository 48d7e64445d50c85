# --container-save.

setup() {
    load common
    work=$(alice_dir "save-$BATS_TEST_NUMBER")
    saved=$work/saved.sqsh
}
teardown() { rm -rf "$work"; }

# A file of the saved container, as unsquashfs reads it.
inside() { unsquashfs -cat "${2-$saved}" "$1"; }
listed() { unsquashfs -ll "${1-$saved}"; }
# Nothing but these is in the directory.
left() {
    local found
    found=$(ls -A "$work")
    [ "$found" = "$*" ] || { echo "in the directory: $found"; show; return 1; }
}

@test "the file is complete when srun returns, and says so" {
    box --container-writable --container-save="$saved" sh -c 'echo changed >/etc/motd; mkdir /new; rm /bin/true; echo done'
    says done
    err_has "pyxis: exported container pyxis_"
    err_has " to $saved"
    [ "$(inside etc/motd)" = changed ]
    [[ $(listed) == *squashfs-root/new* ]]
    [[ $(listed) != *squashfs-root/bin/true* ]]
    [[ $(inside etc/os-release) == *'Busybox in a container'* ]]
    [ "$(stat -c %U "$saved")" = "$alice" ]
    left saved.sqsh
}

@test "a relative path starts at the job's working directory, and its permissions follow the job's umask" {
    run --separate-stderr as "$alice" sh -c "cd '$work' && umask 027 && exec timeout 300 srun --quiet --container-image=$R#busybox --container-save=./x.sqsh true"
    ok
    err_has " to ./x.sqsh"
    left x.sqsh
    [ "$(stat -c %a "$work/x.sqsh")" = 640 ]
}

@test "an existing file is replaced at once, and stays when saving fails" {
    echo old >"$saved"
    chown "$alice:" "$saved"
    box --container-save="$saved" true
    ok
    [ "$(head -c 4 "$saved")" = hsqs ]
    chmod a-w "$work"
    chown root: "$work"
    echo old >"$saved"
    box --container-save="$saved" true
    err_has "no permission to write to $work"
    [ "$(cat "$saved")" = old ]
    left saved.sqsh
}

@test "a failure is one line, and leaves nothing" {
    box --container-save="$work/missing/x.sqsh" echo ran
    out_has ran
    [ "$(pyxis_errors | wc -l)" = 1 ] || { show; false; }
    err_has "failed to export container pyxis_"
    err_has "the directory $work/missing does not exist"
    mkdir "$work/dir"
    box --container-save="$work/dir" echo ran
    err_has "it is a directory"
    left dir
    box --container-save=/dev/null true
    err_has "no regular file"
    [ -c /dev/null ]
}

@test "a path with a slash at its end is refused before there is a job" {
    box --container-save="$work/" true
    refused "--container-save" "slash"
}

@test "a read-only container can be saved" {
    box --container-readonly --container-save="$saved" true
    ok
    [[ $(inside etc/os-release) == *'Busybox in a container'* ]]
}

@test "the command's exit code is kept, and a failed command is saved all the same" {
    box --container-writable --container-save="$saved" sh -c 'echo x >/made; exit 7'
    [ "$status" = 7 ] || { show; false; }
    [ "$(inside made)" = x ]
}

@test "of many tasks the last one is waited for" {
    box -n8 --overcommit --container-writable --container-save="$saved" \
        sh -c 'mkdir -p /made; echo $SLURM_PROCID >/made/$SLURM_PROCID; echo ok'
    ok
    [ "$(wc -l <<<"$output")" = 8 ]
    [ "$(listed | grep -c squashfs-root/made/)" = 8 ] || { listed; false; }
    [ "$(grep -c 'exported container' <<<"$stderr")" = 1 ] || { show; false; }
}

@test "the batch script's own container is saved" {
    printf '%s\n' '#!/bin/sh' "#SBATCH --container-image=$R\\#busybox" '#SBATCH --container-writable' \
        "#SBATCH --container-save=$saved" 'echo batch >/made' 'echo done' |
        install -o "$alice" -m 0755 /dev/stdin "$work/script"
    run as "$alice" sh -c "cd '$work' && timeout 300 sbatch --quiet --wait --output=out script; cat out"
    [[ $output == *done* ]] || { echo "$output"; false; }
    [ "$(inside made)" = batch ]
}

@test "mounts, devices and sockets are left out" {
    mkdir "$work/data"
    echo secret >"$work/data/file"
    chmod -R a+rX "$work/data"
    box --container-writable --container-mounts="$work/data:/data" --container-save="$saved" \
        sh -c 'cat /data/file; mkfifo /fifo; echo x >/tmp/scratch; ls /dev/null'
    ok
    [[ $(listed) == *squashfs-root/data* && $(listed) == *squashfs-root/fifo* ]]
    [[ $(listed) != *data/file* && $(listed) != *scratch* && $(listed) != *dev/null* ]]
    ! listed | grep -E '^[bcs]' || false
}

@test "layers of an image are saved as one, with what was changed" {
    job --container-image="$R#library/debian:12" --container-remap-root --container-writable --container-save="$saved" \
        sh -c 'mv /usr/share /usr/moved && mkdir /usr/share && echo x >/usr/share/x && echo $(find /usr -xdev | wc -l)'
    ok
    [ "$(listed | grep -c ' squashfs-root/usr\(/\|$\)')" = "$output" ] || { show; listed | grep -c squashfs-root/usr; false; }
}

@test "the image's environment is in the file" {
    box --container-save="$saved" true
    ok
    inside etc/environment | grep -q ^PATH= || { inside etc/environment; false; }
}

# What slurmstepd says about a killed task reaches srun, but srun does not always wait for it.
@test "a killed job is not saved, and nothing is left" {
    local signal
    for signal in KILL TERM; do
        box --container-save="$saved" sh -c "kill -$signal \$\$"
        [ "$status" -gt 128 ] || { show; false; }
        left
    done
    as "$alice" timeout 300 sbatch --quiet --job-name=save-killed --output="$work/out" --wrap \
        "srun --quiet --container-image=$R#busybox --container-save=$saved sh -c 'echo ready; exec sleep 1000'"
    poll 30 "the step runs" grep -q ready "$work/out"
    as "$alice" scancel --name=save-killed
    poll 30 "the job has ended" no_job_called save-killed
    left out
    [[ $(sinfo -h -o %T | sort -u) != *drain* ]]
}
no_job_called() { [ -z "$(squeue -h --name="$1")" ]; }

@test "64 tasks, one file" {
    box -N1 -n64 --overcommit --container-writable --container-save="$saved" \
        sh -c 'mkdir -p /made; echo $SLURM_PROCID >/made/$SLURM_PROCID'
    ok
    [ "$(listed | grep -c squashfs-root/made/)" = 64 ] || { listed; false; }
}

@test "the saved file is a good image for the kernel" {
    box --container-writable --container-save="$saved" sh -c 'rm -r /etc; mkdir /etc; echo new >/etc/only; chmod 0 /etc/only'
    ok
    mkdir "$work/mounted"
    mount -t squashfs -o ro,loop "$saved" "$work/mounted"
    found=$(find "$work/mounted/etc" -name os-release)
    text=$(cat "$work/mounted/etc/only")
    umount "$work/mounted"
    [ "$text" = new ]
    [ -z "$found" ]
}

@test "a named container is saved with what earlier steps wrote" {
    local name=save-$BATS_TEST_NUMBER-$$
    box --container-name="$name" --container-writable sh -c 'echo one >/first'
    ok
    job --container-name="$name" --container-writable --container-save="$saved" sh -c 'echo two >/second'
    ok
    err_has "exported container pyxis_$name to $saved"
    [ "$(inside first)$(inside second)" = onetwo ]
}
