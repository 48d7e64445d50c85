# What a container looks like from inside: system mounts, files of /etc, namespaces.

setup() { load common; }

mount_options() { grep -E " $1 " <<<"$output" | tail -n1; }

@test "system mounts and their flags" {
    box cat /proc/self/mountinfo
    ok
    local at
    for at in / /proc /sys /dev /tmp /run; do
        [ -n "$(mount_options "$at")" ] || { echo "no mount on $at"; show; false; }
    done
    [[ "$(mount_options /)" == *nosuid,nodev* ]]
    [[ "$(mount_options /proc)" == *nosuid,nodev,noexec* ]]
    [[ "$(mount_options /sys)" == *" ro"* ]]
    [[ "$(mount_options /dev)" == *nosuid,noexec* ]]
    # Also what is mounted below it: control groups are not to be written.
    [ "$(grep -E " /sys(/[^ ]*)? r[ow][, ]" <<<"$output" | grep -cE " /sys(/[^ ]*)? rw")" = 0 ] || { show; false; }
    box --container-remap-root sh -c 'for d in $(grep -E " /sys/fs/cgroup[^ ]* " /proc/self/mountinfo | cut -d" " -f5); do mkdir $d/x && echo made; done; echo end'
    says end
}

@test "no mount of the host is left in sight" {
    box sh -c 'cut -d" " -f5 /proc/self/mountinfo | grep -vE "^/$|^/(proc|sys|dev|tmp|run|var/run|var/lock|etc)(/|$)"; ls /'
    ok
    out_lacks pyxis
    out_lacks oldroot
}

@test "devices work" {
    box sh -c 'echo x >/dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom | wc -c; test -d /dev/shm && echo shm; readlink /dev/fd'
    says "$(printf '3\n3\nshm\n/proc/self/fd')"
}

@test "hosts, hostname, resolv.conf and machine-id are the host's, read-only" {
    local file
    for file in hosts hostname resolv.conf machine-id; do
        [ -e /etc/$file ] || continue
        box sha256sum /etc/$file
        ok
        [ "${output%% *}" = "$(sha256sum </etc/$file | cut -d' ' -f1)" ] || { echo "$file"; show; false; }
        box --container-writable sh -c "echo x >>/etc/$file"
        [ "$status" != 0 ] || { echo "$file can be written"; false; }
    done
}

@test "the user comes first in passwd and group; root and nobody are there, _apt is not" {
    box cat /etc/passwd
    ok
    [[ ${lines[0]} == "$alice:x:$alice_uid:$(id -g $alice):"*":/bin/sh" ]] || { show; false; }
    [ "$(grep -c ^root: <<<"$output")" = 1 ]
    [ "$(grep -c ^nobody: <<<"$output")" = 1 ]
    [ "$(grep -c ^games: <<<"$output")" = 1 ]
    out_lacks _apt
    box cat /etc/group
    ok
    [[ ${lines[0]} == "$alice:"* ]] || { show; false; }
    [ "$(grep -c ^tty: <<<"$output")" = 1 ]
}

@test "the user's shell is kept when the image has it" {
    job --container-image="$R#library/debian:12" head -n1 /etc/passwd
    ok
    [[ $output == *:/bin/bash ]] || { show; false; }
}

@test "the time zone is the host's" {
    [ -e /etc/localtime ] || skip "the host has no /etc/localtime"
    job --container-image="$R#library/debian:12" date +%Z%z
    says "$(TZ=:/etc/localtime date +%Z%z)"
}

@test "own user, mount and cgroup namespaces; all others are the host's" {
    local kind
    box sh -c 'cd /proc/self/ns && for n in user mnt cgroup pid net ipc uts; do readlink $n; done'
    ok
    for kind in user mnt cgroup; do out_lacks "$(readlink /proc/self/ns/$kind)"; done
    for kind in pid net ipc uts; do out_has "$(readlink /proc/self/ns/$kind)"; done
}

@test "the tasks of a step share namespaces, steps do not" {
    job -n4 --container-image="$R#busybox" sh -c 'readlink /proc/self/ns/user; readlink /proc/self/ns/mnt'
    ok
    [ "${#lines[@]}" = 8 ]
    [ "$(sort -u <<<"$output" | wc -l)" = 2 ] || { show; false; }
}

@test "the cgroup namespace hides where the task is" {
    box cat /proc/self/cgroup
    ok
    [ "$(grep -vcE ':/$' <<<"$output")" = 0 ] || { show; false; }
}

@test "ranks may read each other's memory" {
    # shellcheck disable=SC2016
    job -n2 --container-image="$R#busybox" --container-mounts="/dev/shm:/shared" sh -c '
        d=/shared/pyxis-peer-$SLURM_JOB_ID; mkdir -p $d; echo $$ >$d/$SLURM_LOCALID.new; mv $d/$SLURM_LOCALID.new $d/$SLURM_LOCALID
        other=$d/$((1 - SLURM_LOCALID)); until [ -e $other ]; do usleep 10000; done
        head -c 1 /proc/$(cat $other)/maps >/dev/null && echo readable
        touch $other.done; until [ -e $d/$SLURM_LOCALID.done ]; do usleep 10000; done'
    rm -rf /dev/shm/pyxis-peer-*
    says "$(printf 'readable\nreadable')"
}

@test "the user cannot reach the package store or the runtime's directory" {
    box --container-mounts=/var/lib/pyxis:/p ls /p
    fails
    run as "$alice" ls /var/lib/pyxis
    [ "$status" != 0 ]
}
