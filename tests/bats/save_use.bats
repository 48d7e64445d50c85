# A file that --container-save has written is an image: what it brings, who reads it, and saving it once more.

setup() {
    load common
    work=$(alice_dir "save-use-$BATS_TEST_NUMBER")
    saved=$work/saved.sqsh
    name=use-$BATS_TEST_NUMBER-$$
    trusted=/var/lib/pyxis-test-saved.$$
}
teardown() {
    [ -z "${holder-}" ] || { scancel --user="$alice" --name="$name"; wait "$holder" || true; }
    rm -rf "$work" "$trusted" "/var/lib/pyxis-data/$alice_uid/pyxis_$name"
}

# Variables that are not of Slurm's or of one step.
lasting() { grep -vE '^(_?SLURM|SRUN|PMI|HOSTNAME|TMPDIR|SHLVL|PWD|OLDPWD)' <<<"$output" | sort; }
# save_rich: the image with variables, working directory and entrypoint, and a change.
save_rich() {
    job --container-image="$R#rich" --container-writable --container-save="$saved" sh -c 'echo changed >/made; rm -r /etc/os-release; env'
    ok
}
# The file at a place where only root can change it: the kernel reads it.
trust() {
    mkdir -m 0755 "$trusted"
    install -m 0644 "$saved" "$trusted/x.sqsh"
}

@test "variables and working directory of the image, and the change, are there" {
    save_rich
    local wanted
    wanted=$(lasting)
    cd "$work"
    run --separate-stderr as "$alice" sh -c "cd '$work' && exec timeout 300 srun --quiet --container-image=./saved.sqsh env"
    ok
    [ "$(lasting)" = "$wanted" ] || { diff <(lasting) - <<<"$wanted"; false; }
    job PYXIS_TRACE=1 --container-image="$saved" sh -c 'pwd; cat /made; test ! -e /etc/os-release; stat -c %u /made'
    says "$(printf '/opt/work\nchanged\n%s' "$alice_uid")"
    local by=squashfuse_ll
    ! images_are_unpacked || by=unpacked
    err_has "\"image_read_by\":\"$by: "
    job --container-image="$saved" --container-workdir=/etc pwd
    says /etc
}

@test "its entrypoint is the image's" {
    save_rich
    job --container-image="$saved" sh -c 'echo ${ENTERED-no}'
    says no
    job --container-image="$saved" --container-entrypoint sh -c 'echo ${ENTERED-no} $(pwd)'
    says "yes /opt/work"
}

@test "saved again, from a user's file and from one that the kernel reads" {
    save_rich
    trust
    local image
    for image in "$saved" "$trusted/x.sqsh"; do
        job --container-image="$image" --container-writable --container-save="$work/again.sqsh" \
            sh -c 'rm /made; echo again >/made2; mv /opt /moved; mkdir /opt; echo x >/opt/x'
        ok
        err_has "exported container pyxis_"
        job --container-image="$work/again.sqsh" sh -c 'test ! -e /made && cat /made2 && ls /opt && test -d /moved/work && echo $FROM_IMAGE'
        says "$(printf 'again\nx\nimage')"
        rm "$work/again.sqsh"
    done
}

@test "a container with a name from a file: kept, joined, and saved" {
    save_rich
    trust
    local image
    for image in "$saved" "$trusted/x.sqsh"; do
        job --container-name="$name" --container-image="$image" --container-writable sh -c 'rm /made; echo kept >/kept'
        ok
        job --container-name="$name" sh -c 'cat /kept; test ! -e /made; echo $FROM_IMAGE; pwd'
        says "$(printf 'kept\nimage\n/opt/work')"
        job --container-name="$name" --container-writable --container-save="$work/named.sqsh" sh -c 'echo more >>/kept'
        ok
        err_has "exported container pyxis_$name to $work/named.sqsh"
        job --container-image="$work/named.sqsh" sh -c 'cat /kept; test ! -e /made'
        says "$(printf 'kept\nmore')"
        rm -rf "$work/named.sqsh" "/var/lib/pyxis-data/$alice_uid/pyxis_$name"
    done
}

@test "a container that was joined is saved by the one who joined it, while it runs" {
    save_rich
    local image
    for image in "$R#busybox" "$saved"; do
        mkfifo -m 0666 "$work/fifo"
        as "$alice" timeout 300 srun --quiet --job-name="$name" --container-name="$name" --container-image="$image" --container-writable \
            --container-mounts="$work/fifo:/fifo" sh -c 'echo first >/first; read -r word </fifo; test -e /second' 3>&- &
        holder=$!
        holds() { [ -e "/var/lib/pyxis-data/$alice_uid/pyxis_$name/upper/first" ]; }
        poll 30 "the container runs" holds
        job --container-name="$name:exec" --container-save="$work/joined.sqsh" sh -c 'echo second >/second'
        ok
        err_has "exported container pyxis_$name to $work/joined.sqsh"
        # It is still there for the one who made it.
        timeout 20 sh -c 'echo go >"$1"' sh "$work/fifo"
        wait "$holder"
        holder=
        job --container-image="$work/joined.sqsh" cat /first /second
        says "$(printf 'first\nsecond')"
        rm -rf "$work/joined.sqsh" "$work/fifo" "/var/lib/pyxis-data/$alice_uid/pyxis_$name"
    done
}

@test "what every start writes is not in the way of the next user" {
    box --container-remap-root --container-save="$saved" true
    ok
    chmod 0644 "$saved"
    cp "$saved" /home/$bob/"$name.sqsh"
    chown "$bob:" /home/$bob/"$name.sqsh"
    run --separate-stderr as "$bob" timeout 300 srun --quiet --container-image="./$name.sqsh" sh -c 'id -un; head -n1 /etc/passwd | cut -d: -f1; grep -c "^root:" /etc/passwd'
    rm /home/$bob/"$name.sqsh"
    says "$(printf '%s\n%s\n1' "$bob" "$bob")"
}

@test "a save that takes long tells how far it is" {
    as "$alice" timeout 300 srun --quiet --job-name="$name" --container-image="$R#busybox" --container-writable --container-save="$saved" \
        sh -c 'head -c 300000000 /dev/urandom >/large' >"$work/out" 2>&1 3>&- &
    holder=$!
    stop_saver_below "$work"
    local told="saving container pyxis_[0-9.]* to $saved: [0-9]* MiB written"
    poll 30 "the line" grep -q "$told" "$work/out"
    kill -CONT "$pid"
    wait "$holder"
    holder=
    grep -q "exported container" "$work/out"
    [ "$(unsquashfs -cat "$saved" large | wc -c)" = 300000000 ]
}
