# make install, and the packaged line for plugstack.conf.

setup() {
    load common
    dir=$(alice_dir "install-$BATS_TEST_NUMBER")
}
teardown() { rm -rf "$dir"; }

installed() { (cd "$dir" && find . ! -type d -printf '%m %P\n' | sort -k2); }

@test "make install puts everything below DESTDIR and PREFIX, and uninstall takes it away but for settings and the store" {
    local make=(make -C "$root" --no-print-directory "DESTDIR=$dir" PREFIX=/opt/px SLURM_PLUGINDIR=/opt/slurm)
    "${make[@]}" install
    [ "$(installed)" = "644 etc/pyxis/pyxis.toml
777 opt/px/bin/pyxis
644 opt/px/lib/sysusers.d/pyxis.conf
644 opt/px/lib/tmpfiles.d/pyxis.conf
644 opt/px/share/bash-completion/completions/pyxis
644 opt/px/share/fish/vendor_completions.d/pyxis.fish
644 opt/px/share/man/man1/pyxis.1
644 opt/px/share/man/man5/pyxis.conf.5
644 opt/px/share/man/man5/pyxis.toml.5
644 opt/px/share/pyxis/pyxis.conf
644 opt/px/share/zsh/site-functions/_pyxis
644 opt/slurm/spank_pyxis.so
755 usr/libexec/pyxis/worker" ] || { installed; false; }
    [ "$(stat -c '%a %U' "$dir/var/lib/pyxis")" = "700 root" ]
    [ "$(readlink -f "$dir/opt/px/bin/pyxis")" = "$dir/usr/libexec/pyxis/worker" ]
    # The site's own settings stay.
    echo '[container]' >"$dir/etc/pyxis/pyxis.toml"
    "${make[@]}" install
    [ "$(cat "$dir/etc/pyxis/pyxis.toml")" = '[container]' ]
    "${make[@]}" uninstall
    [ "$(installed)" = "644 etc/pyxis/pyxis.toml" ] || { installed; false; }
}

@test "arguments in plugstack.conf that are unknown or malformed stop srun, which names them" {
    local plugin wrong
    read -r _ plugin _ <"$test_state/plugstack.conf"
    sed "s,^PlugStackConfig=.*,PlugStackConfig=$dir/plugstack.conf," "$SLURM_CONF" >"$dir/slurm.conf"
    for wrong in nonsense=1 nonsense sbatch_support=perhaps container_scope=galaxy runtime_path=relative importer=; do
        echo "required $plugin $wrong" >"$dir/plugstack.conf"
        job SLURM_CONF="$dir/slurm.conf" true
        [ "$status" != 0 ] && err_has "pyxis: " && err_has "${wrong%=*}" || { echo "$wrong"; show; return 1; }
    done
}

@test "plugstack.conf includes the packaged file as a glob, or through a directory of drop-ins" {
    local line
    make -C "$root" --no-print-directory install "DESTDIR=$dir" SLURM_PLUGINDIR=/opt/slurm
    mkdir "$dir/plugstack.conf.d"
    ln -s "$dir/usr/share/pyxis/pyxis.conf" "$dir/plugstack.conf.d/pyxis.conf"
    sed "s,^PlugStackConfig=.*,PlugStackConfig=$dir/plugstack.conf," "$SLURM_CONF" >"$dir/slurm.conf"
    for line in "include $dir/usr/share/pyxis/*" "include $dir/plugstack.conf.d/*.conf"; do
        echo "$line" >"$dir/plugstack.conf"
        # The line names no directory: the plugin is looked for among Slurm's own.
        box SLURM_CONF="$dir/slurm.conf" grep PRETTY /etc/os-release
        says 'PRETTY_NAME="Busybox in a container"'
    done
}
