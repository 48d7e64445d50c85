# enroot's configuration files, of the site and of the user. The site's are those of the node tiny, which has an
# /etc/enroot and a pyxis.toml of its own; no other file that runs beside this one uses that node.

setup() {
    load common
    site=$test_state/tiny-enroot
    policy=$test_state/tiny.toml
    cp "$policy" "$BATS_TEST_TMPDIR/policy"
    config=$(alice_dir "enroot-conf-$BATS_TEST_NUMBER")
}
teardown() {
    rm -rf "${site:?}"/* "$config"
    chmod 0755 "$site"
    # The same file, as it is what the node has mounted.
    cat "$BATS_TEST_TMPDIR/policy" >"$policy"
}

# lines FILE LINE...: a file of the site.
lines() {
    local file=$site/$1
    shift
    mkdir -p "$(dirname "$file")"
    printf '%s\n' "$@" >"$file"
}
# own FILE LINE...: a file of alice.
own() {
    local file=$config/$1
    shift
    install -d -o "$alice" "$(dirname "$file")"
    printf '%s\n' "$@" | install -o "$alice" -m 0600 /dev/stdin "$file"
}
# tiny ARGUMENTS...: a container on the node tiny, with alice's own files.
tiny() {
    local vars=()
    while [[ ${1-} =~ ^[A-Za-z_][A-Za-z_0-9]*= ]]; do vars+=("$1"); shift; done
    box ENROOT_CONFIG_PATH="$config" "${vars[@]}" -p tiny "$@"
}
writable='touch /new 2>/dev/null && echo writable || echo read-only'

@test "switches of the site are defaults, which options and variables of the job overrule" {
    lines enroot.conf '# the site' 'ENROOT_ROOTFS_WRITABLE yes # all' 'ENROOT_REMAP_ROOT=y' 'ENROOT_MOUNT_HOME "true"'
    tiny sh -c "$writable; id -u; test -e /root/$(basename "$config") && echo home"
    says "$(printf 'writable\n0\nhome')"
    tiny --container-readonly --no-container-remap-root --no-container-mount-home \
        sh -c "$writable; id -u; test -e $config || echo no home"
    says "$(printf 'read-only\n%s\nno home' "$alice_uid")"
    tiny ENROOT_ROOTFS_WRITABLE=n ENROOT_REMAP_ROOT=no ENROOT_MOUNT_HOME=false sh -c "$writable; id -u; test -e $config || echo no home"
    says "$(printf 'read-only\n%s\nno home' "$alice_uid")"
    tiny PYXIS_CONTAINER_REMAP_ROOT=0 ENROOT_REMAP_ROOT=yes id -u
    says "$alice_uid"
}

@test "without any file nothing changes, and variables of the job work" {
    tiny sh -c "$writable; id -u"
    says "$(printf 'read-only\n%s' "$alice_uid")"
    tiny ENROOT_ROOTFS_WRITABLE=yes ENROOT_REMAP_ROOT=y sh -c "$writable; id -u"
    says "$(printf 'writable\n0')"
    err_lacks ignoring
}

@test "pyxis.toml counts more than the site's enroot.conf, and the user's file more than both" {
    lines enroot.conf 'ENROOT_ROOTFS_WRITABLE yes' 'ENROOT_REMAP_ROOT yes'
    printf '[container]\nwritable = false\n' >>"$policy"
    tiny sh -c "$writable; id -u"
    says "$(printf 'read-only\n0')"
    own enroot.conf 'ENROOT_ROOTFS_WRITABLE yes'
    own enroot.conf.d/10.conf 'ENROOT_REMAP_ROOT no'
    tiny sh -c "$writable; id -u"
    says "$(printf 'writable\n%s' "$alice_uid")"
}

@test "drop-in files count more, in the order of their names" {
    lines enroot.conf 'ENROOT_REMAP_ROOT yes'
    lines enroot.conf.d/20.conf 'ENROOT_REMAP_ROOT no'
    lines enroot.conf.d/10.conf 'ENROOT_REMAP_ROOT yes'
    lines enroot.conf.d/30.conf.bak 'ENROOT_REMAP_ROOT $(reboot)'
    tiny id -u
    says "$alice_uid"
}

@test "values for one user, in a site's own configuration" {
    lines enroot.conf 'ENROOT_RUNTIME_PATH /run/enroot/user-$(id -u)' 'ENROOT_CACHE_PATH ${XDG_CACHE_HOME:-$HOME/.cache}/enroot' \
        'ENROOT_DATA_PATH /tmp/enroot-data/$(id -un)' 'ENROOT_TEMP_PATH ${TMPDIR:-/tmp}' \
        "ENROOT_CONFIG_PATH \${HOME}/$(basename "$config")" 'ENROOT_SQUASH_OPTIONS -comp lzo -noD -exit-on-error' \
        'ENROOT_MAX_PROCESSORS $(nproc)' 'ENROOT_LOGIN_SHELL yes' 'ENROOT_GZIP_PROGRAM pigz'
    own enroot.conf 'ENROOT_REMAP_ROOT yes'
    box -p tiny id -u
    says 0
    err_lacks ignoring
}

@test "passwords are found where the site's enroot.conf says" {
    lines enroot.conf "ENROOT_CONFIG_PATH \${HOME}/$(basename "$config")"
    own .credentials 'machine 127.0.0.1 login alice password $SECRET'
    job SECRET="open sesame" -p tiny --container-image="$H#basic/conf-$BATS_TEST_NUMBER" sh -c 'cat /repository; echo "${ENROOT_CONFIG_PATH-unset}"'
    says "$(printf 'basic/conf-%s\nunset' "$BATS_TEST_NUMBER")"
}

@test "nothing is run as a shell" {
    local value
    for value in "\$(touch $config/ran)" "\`touch $config/ran\`" "x; touch $config/ran" "\${X:-\$(touch $config/ran)}"; do
        lines enroot.conf '# first' "ENROOT_TEMP_PATH $value"
        tiny echo ran
        fails "/etc/enroot/enroot.conf, line 2: ENROOT_TEMP_PATH" "not run as a shell"
        rm "$site/enroot.conf"
        own enroot.conf "ENROOT_TEMP_PATH $value"
        tiny echo ran
        fails "$config/enroot.conf, line 1: ENROOT_TEMP_PATH" "not run as a shell"
        rm "$config/enroot.conf"
    done
    [ ! -e "$config/ran" ]
}

@test "a wrong line of one user is nobody else's trouble" {
    own enroot.conf 'ENROOT_REMAP_ROOT perhaps'
    tiny echo ran
    fails "$config/enroot.conf, line 1: ENROOT_REMAP_ROOT: \"perhaps\" is not a switch"
    run --separate-stderr as "$bob" timeout 300 srun --quiet -p tiny --container-image="$R#busybox" echo ran
    says ran
    tiny ENROOT_CONFIG_PATH="$config/none" ENROOT_REMAP_ROOT=perhaps echo ran
    fails "environment: ENROOT_REMAP_ROOT"
}

@test "an unknown key is told once" {
    lines enroot.conf.d/x.conf 'ENROOT_COLOUR red'
    tiny -n3 echo ran
    says "$(printf 'ran\nran\nran')"
    [ "$(grep -c '/etc/enroot/enroot.conf.d/x.conf, line 1: unknown setting ENROOT_COLOUR, ignoring' <<<"$stderr")" = 1 ] || { show; false; }
}

@test "files of the site that others can write are refused" {
    lines enroot.conf 'ENROOT_REMAP_ROOT yes'
    chmod 0666 "$site/enroot.conf"
    tiny echo ran
    fails "/etc/enroot/enroot.conf" "others than root can write it"
    chmod 0644 "$site/enroot.conf"
    chmod 0777 "$site"
    tiny echo ran
    fails "/etc/enroot" "others than root can write it"
    chmod 0755 "$site"
    chown "$alice" "$site/enroot.conf"
    tiny echo ran
    fails "/etc/enroot/enroot.conf" "others than root can write it"
}

@test "files of the user are opened with his rights, and not waited for" {
    local target
    for target in /etc/shadow /proc/self/maps /dev/zero; do
        ln -sfn "$target" "$config/enroot.conf"
        tiny echo ran
        fails "configuration $config/enroot.conf: "
        err_lacks "line 1"
    done
    rm "$config/enroot.conf"
    mkfifo "$config/enroot.conf"
    chown "$alice" "$config/enroot.conf"
    tiny echo ran
    fails "configuration $config/enroot.conf: not a regular file"
}

@test "a job cannot weaken what the site says" {
    lines enroot.conf 'ENROOT_RESTRICT_DEV yes' 'ENROOT_UNSHARE_NET yes'
    printf 'allow_http = []\n' >>"$policy"
    own enroot.conf 'ENROOT_RESTRICT_DEV no' 'ENROOT_UNSHARE_NET no' 'ENROOT_ALLOW_HTTP yes'
    # The sample registry speaks plain HTTP only.
    tiny ENROOT_ALLOW_HTTP=yes echo ran
    dies "plain http is not allowed for it"
    err_has "only the site's files can set ENROOT_ALLOW_HTTP, ignoring"
    cat "$BATS_TEST_TMPDIR/policy" >"$policy"
    tiny ENROOT_RESTRICT_DEV=no ENROOT_UNSHARE_NET=no sh -c 'test -e /dev/loop-control || echo restricted; readlink /proc/self/ns/net'
    out_has restricted
    out_lacks "$(readlink /proc/self/ns/net)"
}

@test "a user may ask for more restrictions" {
    tiny ENROOT_RESTRICT_DEV=y sh -c 'test -e /dev/loop-control || echo restricted; test -c /dev/null && echo null'
    says "$(printf 'restricted\nnull')"
    own enroot.conf 'ENROOT_UNSHARE_NET yes' 'ENROOT_UNSHARE_UTS yes'
    tiny sh -c 'for kind in net uts ipc; do readlink /proc/self/ns/$kind; done'
    ok
    [ "${lines[0]}" != "$(readlink /proc/self/ns/net)" ]
    [ "${lines[1]}" != "$(readlink /proc/self/ns/uts)" ]
    [ "${lines[2]}" = "$(readlink /proc/self/ns/ipc)" ]
}

@test "a PID namespace is told to be none" {
    lines enroot.conf 'ENROOT_UNSHARE_PID yes'
    tiny readlink /proc/self/ns/pid
    says "$(readlink /proc/self/ns/pid)"
    err_has "ENROOT_UNSHARE_PID has no effect"
}

@test "environ.d of the site and of the user, over the image's and the job's variables" {
    lines environ.d/10.env '# comment' 'A=site' 'B="site ${GIVEN}"' 'FROM_IMAGE=site' 'SLURM_PROCID=99' 'ENROOT_X=1'
    lines environ.d/20.env 'LATER=${NONE}x'
    own environ.d/x.env 'A=user ${HOME}'
    job ENROOT_CONFIG_PATH="$config" GIVEN=job A=job -p tiny -n2 --container-image="$R#rich" \
        sh -c 'echo "$SLURM_PROCID $A|$B|$FROM_IMAGE|$LATER|${ENROOT_X-unset}"'
    [ "$(sort <<<"$output")" = "$(printf '%s user %s|site job|site|x|unset\n' 0 "$alice_home" 1 "$alice_home")" ] || { show; false; }
}

@test "mounts.d of the site and of the user" {
    own data/file 'hello'
    lines mounts.d/20-site.fstab '# comment' "$config/data /second none rbind,x-create=auto,ro 0 1" \
        '${DATA} /first none x-create=dir,bind' '/no/such/place /x none bind,nofail,silent'
    own mounts.d/x.fstab 'tmpfs /third tmpfs x-create=dir,size=1M' "$config/data/file /first/file"
    tiny DATA="$config/data" --container-mounts="$config/data:/third/last" \
        sh -c 'cat /first/file /second/file /third/last/file; touch /second/new 2>/dev/null || echo read-only; touch /first/new && echo written'
    says "$(printf 'hello\nhello\nhello\nread-only\nwritten')"
}

@test "mounts of the site are opened with the user's rights" {
    install -d -m 0700 "$config/closed"
    lines mounts.d/x.fstab "$config/closed /x none rbind,x-create=dir"
    tiny ls /x
    fails "$config/closed" "Permission denied"
    lines mounts.d/x.fstab "/root /x none rbind,x-create=dir"
    tiny ls /x
    fails "/root" "Permission denied"
    lines mounts.d/x.fstab '${SECRET} /x none rbind,x-create=dir'
    tiny SECRET=/etc/shadow cat /x
    fails "/etc/shadow" "Permission denied"
}

@test "a wrong line of mounts.d names file and line" {
    lines mounts.d/x.fstab '' '/dev/sda1 /x ext4 ro'
    tiny echo ran
    fails "/etc/enroot/mounts.d/x.fstab, line 2: type \"ext4\""
    rm "$site/mounts.d/x.fstab"
    own mounts.d/x.fstab '/src /dst none wild'
    tiny echo ran
    fails "$config/mounts.d/x.fstab, line 1: unknown option \"wild\""
}

@test "what enroot itself installs in mounts.d changes nothing" {
    lines mounts.d/10-system.fstab '/proc /proc none x-create=dir,rbind,rw,nosuid,nodev,noexec' \
        '/sys /sys none x-create=dir,rbind,ro,nosuid,nodev,noexec' '/dev /dev none x-create=dir,rbind,rw,nosuid,noexec' \
        'tmpfs /tmp tmpfs x-create=dir,rw,nosuid,nodev,mode=755' 'tmpfs /var/run tmpfs x-create=dir,rw,nosuid,nodev,mode=755' \
        '/dev/shm /dev/shm none x-create=dir,bind,rw,nosuid,nodev,noexec'
    lines mounts.d/20-config.fstab '/etc/hosts /etc/hosts none x-create=file,bind,ro,nosuid,nodev,noexec,nofail,silent'
    local mounts='cut -d" " -f2-4 /proc/self/mounts'
    tiny sh -c "$mounts"
    ok
    local with=$output
    rm -r "$site/mounts.d"
    tiny sh -c "$mounts"
    says "$with"
    lines mounts.d/10-system.fstab '/dev /dev none x-create=dir,rbind,rw,nosuid,noexec'
    tiny ENROOT_RESTRICT_DEV=yes sh -c 'test -e /dev/loop-control || echo restricted'
    says restricted
}

@test "a batch script in a container has them too" {
    lines environ.d/x.env 'FROM_SITE=${GIVEN}'
    lines enroot.conf 'ENROOT_REMAP_ROOT yes'
    printf '%s\n' '#!/bin/sh' "#SBATCH --container-image=$R\\#busybox" 'id -u; echo "$FROM_SITE"' |
        install -o "$alice" -m 0755 /dev/stdin "$config/script"
    run as "$alice" GIVEN=job sh -c "cd '$config' && timeout 300 sbatch --quiet --wait -p tiny --output=out script; cat out"
    [ "$(tail -n2 <<<"$output")" = "$(printf '0\njob')" ] || { echo "$output"; false; }
}

@test "pyxis pull heeds the site's file" {
    lines enroot.conf 'ENROOT_CONNECT_TIMEOUT soon'
    run --separate-stderr srun --quiet -p tiny --chdir=/ pyxis images
    [ "$status" != 0 ]
    err_has "/etc/enroot/enroot.conf, line 1: ENROOT_CONNECT_TIMEOUT: \"soon\" is not a number"
}

# hook FILE LINE...: a program of the site.
hook() {
    lines "hooks.d/$1" '#!/bin/sh' "${@:2}"
    chmod 0755 "$site/hooks.d/$1"
}

@test "hooks are not run unless the site says so" {
    hook 10.sh "touch $config/ran"
    own hooks.d/10.sh '#!/bin/sh' "touch $config/ran"
    chmod 0755 "$config/hooks.d/10.sh"
    tiny test -e /etc/passwd
    ok
    [ ! -e "$config/ran" ]
    printf '[container]\nhooks = true\n' >>"$policy"
    hook 10.sh 'id -un >$ENROOT_ROOTFS/etc/site'
    tiny cat /etc/site
    says "$alice"
    [ ! -e "$config/ran" ]
    printf 'user_hooks = true\n' >>"$policy"
    tiny cat /etc/site
    says "$alice"
    [ "$(stat -c %U "$config/ran")" = "$alice" ]
}

@test "a hook sets variables and mounts for all tasks, once per node" {
    printf '[container]\nhooks = true\n' >>"$policy"
    own data/file 'hello'
    hook 10.sh "echo run >>$config/runs" 'echo "HOOKED=$GIVEN ${ENROOT_REMAP_ROOT-no root}" >>$ENROOT_ENVIRON' \
        "echo '$config/data /from-hook none rbind,x-create=auto' >>\$ENROOT_MOUNTS"
    tiny GIVEN=job -n3 sh -c 'echo "$HOOKED $(cat /from-hook/file)"'
    says "$(printf 'job no root hello\n%.0s' 1 2 3)"
    [ "$(wc -l <"$config/runs")" = 1 ]
}

@test "a failing hook ends the step, with what it printed" {
    printf '[container]\nhooks = true\n' >>"$policy"
    hook 10.sh 'echo what went wrong' 'exit 3'
    tiny -n2 echo ran
    dies "hook /etc/enroot/hooks.d/10.sh ended with exit code 3"
    err_has "pyxis: hook: what went wrong"
    out_lacks ran
}

@test "a hook that hangs ends with its job" {
    printf '[container]\nhooks = true\n' >>"$policy"
    hook 10.sh "echo \$\$ >$config/started" 'setsid sleep 47110817 & sleep 47110817'
    as "$alice" ENROOT_CONFIG_PATH="$config" srun --quiet -p tiny -J "hang-$BATS_TEST_NUMBER" \
        --container-image="$R#busybox" echo ran >/dev/null 2>&1 3>&- &
    poll 20 "the hook is started" test -s "$config/started"
    scancel --name "hang-$BATS_TEST_NUMBER" --user "$alice"
    wait $! || true
    poll 10 "nothing of the hook is left" no_sleep
}
no_sleep() { ! pgrep -f 'sleep 47110817' >/dev/null; }

@test "hooks, environ.d and mounts.d of a container with a name: at each start, and as they were for who joins" {
    local name=conf-$$ fifo=$config/fifo
    printf '[container]\nhooks = true\n' >>"$policy"
    own data/file 'hello'
    mkfifo -m 0666 "$fifo"
    hook 10.sh "echo run >>$config/runs" "echo HOOKED=\$(wc -l <$config/runs) >>\$ENROOT_ENVIRON" \
        "echo '$config/data /from-hook none rbind,x-create=auto' >>\$ENROOT_MOUNTS"
    lines mounts.d/10.fstab "$config/data /from-site none rbind,x-create=auto,ro"
    lines environ.d/10.env 'BY_SITE=${GIVEN}'
    local look='echo "$HOOKED $BY_SITE $(cat /from-hook/file /from-site/file)"'
    tiny GIVEN=one --container-name="$name" sh -c "$look"
    says $'1 one hello\nhello'
    tiny GIVEN=two --container-name="$name" sh -c "$look"
    says $'2 two hello\nhello'
    as "$alice" ENROOT_CONFIG_PATH="$config" GIVEN=three srun --quiet -p tiny -J "$name" --container-name="$name" \
        --container-mounts="$fifo:/fifo" sh -c 'read -r word </fifo' 3>&- &
    local holder=$!
    runs() { [ -n "$(ls "/run/pyxis/$alice_uid/pyxis_$name" 2>/dev/null)" ]; }
    poll 30 "the container runs" runs
    tiny GIVEN=four --container-name="$name:exec" sh -c "$look"
    says $'3 four hello\nhello'
    timeout 20 sh -c 'echo go >"$1"' sh "$fifo"
    wait "$holder"
    rm -rf "/var/lib/pyxis-data/$alice_uid/pyxis_$name"
}

@test "files with data in mounts.d, as the site allows it" {
    own data/file hello
    mksquashfs "$config/data" "$config/x.sqsh" -all-root -quiet -no-progress >/dev/null
    own mounts.d/x.fstab "$config/x.sqsh /data squashfs loop,ro,x-create=dir 0 0"
    tiny cat /data/file
    says hello
    printf '[images]\nuser_images = "deny"\n' >>"$policy"
    tiny true
    fails 'images.user_images = "deny" forbids' "$config/x.sqsh"
}
