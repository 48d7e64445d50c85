# The packages: what is in them, and the life of an installation in a clean Debian.
# shellcheck shell=bash disable=SC2154

bats_require_minimum_version 1.5.0

setup_file() {
    export root=$BATS_TEST_DIRNAME/../..
    # shellcheck source=tests/cluster/common.sh disable=SC1091
    . "$root/tests/cluster/common.sh"
    export PACKAGES=$BATS_FILE_TMPDIR/one debian=$cache/debian-12
    "$root/packaging/build" "$PACKAGES" >/dev/null
    DEB=$(echo "$PACKAGES"/pyxis_*.deb) RPM=$(echo "$PACKAGES"/pyxis-[0-9]*.rpm)
    NAMES_DEB=$(echo "$PACKAGES"/pyxis-names_*.deb) NAMES_RPM=$(echo "$PACKAGES"/pyxis-names-*.rpm)
    export DEB RPM NAMES_DEB NAMES_RPM
}

setup() { load common; }

@test "two builds give the same bytes, and not many of them" {
    "$root/packaging/build" "$BATS_TEST_TMPDIR/two" >/dev/null
    for file in "$DEB" "$RPM" "$NAMES_DEB" "$NAMES_RPM"; do
        cmp "$file" "$BATS_TEST_TMPDIR/two/$(basename "$file")"
        echo "# $(basename "$file"): $(($(stat -c %s "$file") >> 10)) KiB" >&3
        [ "$(stat -c %s "$file")" -le $((8 << 20)) ]
    done
}

@test "both have the same files, root's, with the modes of an installation" {
    dpkg-deb --fsys-tarfile "$DEB" | tar -tv --numeric-owner >"$BATS_TEST_TMPDIR/deb"
    [ "$(awk '{ print $2 }' "$BATS_TEST_TMPDIR/deb" | sort -u)" = 0/0 ]
    [ "$(grep -E '^.{5}w|^.{8}w|^...s|^......s' "$BATS_TEST_TMPDIR/deb" | grep -cv '^l')" = 0 ]
    # What each family has its own place for, and the link for another maker's Slurm.
    local own='/$|-gnu/slurm/|doc/pyxis/copyright$|changelog\.Debian\.gz$|/lintian/|share/licenses/'
    local names='s|^\./||; s|^|/|; s|/usr/lib/[^/]*-linux-gnu/slurm-wlm/|PLUGINS/|; s|/usr/lib64/slurm/|PLUGINS/|'
    dpkg-deb --fsys-tarfile "$DEB" | tar -t | grep -vE "$own" | sed "$names" | sort >"$BATS_TEST_TMPDIR/one"
    rpm -qp --queryformat '[%{FILEMODES:perms} %{FILENAMES}\n]' "$RPM" | grep -v ^d | sed 's/^[^ ]* //' | grep -vE "$own" | sed 's|/usr/lib64/slurm/|PLUGINS/|' |
        sort >"$BATS_TEST_TMPDIR/two"
    diff "$BATS_TEST_TMPDIR/one" "$BATS_TEST_TMPDIR/two"
    for file in PLUGINS/spank_pyxis.so /usr/bin/pyxis /usr/libexec/pyxis/worker /usr/share/pyxis/pyxis.conf /etc/pyxis/pyxis.toml \
        /usr/share/man/man{1/pyxis.1,5/pyxis.toml.5,5/pyxis.conf.5}.gz /usr/share/bash-completion/completions/pyxis; do
        grep -qx "$file" "$BATS_TEST_TMPDIR/one"
    done
}

@test "lintian and rpmlint find nothing but what is explained" {
    run lintian --allow-root --display-info --fail-on error,warning,info "$DEB" "$NAMES_DEB"
    says ""
    run rpmlint --strict --config "$root/packaging/rpm/rpmlint.toml" "$RPM" "$NAMES_RPM"
    [ "$status" = 0 ] || { shows; false; }
}

@test "the package of other names has them and nothing else, in place of those whose names they are" {
    local files
    files=$(dpkg-deb --fsys-tarfile "$NAMES_DEB" | tar -t | grep -vE '/$|/doc/|/lintian/' | sed 's/^\.//' | sort)
    [ "$files" = "$(rpm -qpl "$NAMES_RPM" | grep -v '/pyxis-names$' | sort)" ]
    [ "$(grep -c ^/usr/bin/ <<<"$files")" = 3 ]
    for name in enroot singularity apptainer; do grep -qx "/usr/bin/$name" <<<"$files"; done
    for other in enroot apptainer; do
        [[ $(dpkg-deb -f "$NAMES_DEB" Conflicts) == *$other* ]]
        rpm -qp --conflicts "$NAMES_RPM" | grep -qx "$other"
    done
    inside 'install; dpkg -i "$names" >/dev/null; for name in enroot singularity apptainer; do readlink -f "/usr/bin/$name"; done
        enroot version; apptainer --version; singularity exec --help | grep -c -- --nv; dpkg --remove pyxis-names >/dev/null; ls /usr/bin/enroot 2>&1'
    [[ $output == *"/usr/libexec/pyxis/worker"*"4.1.0 (pyxis "*"apptainer "*"cannot access"* ]] || { shows; return 1; }
}

@test "NVIDIA's package goes, and settings are configuration files" {
    for field in Provides Conflicts Replaces; do [ "$(dpkg-deb -f "$DEB" $field)" = nvslurm-plugin-pyxis ]; done
    rpm -qp --conflicts "$RPM" | grep -qx nvslurm-plugin-pyxis
    rpm -qp --obsoletes "$RPM" | grep -q '^nvslurm-plugin-pyxis < '
    [ "$(rpm -qpc "$RPM")" = /etc/pyxis/pyxis.toml ]
    [ "$(dpkg-deb -I "$DEB" conffiles)" = /etc/pyxis/pyxis.toml ]
    rpm -qp --scripts "$RPM" | grep -q useradd
}

@test "the licences of all that is linked are there" {
    dpkg-deb --fsys-tarfile "$DEB" | tar -xO ./usr/share/doc/pyxis/third-party-licences.gz | zcat >"$BATS_TEST_TMPDIR/licences"
    for crate in rustix zstd-sys ring rustls clap sequoia-openpgp; do grep -q "^$crate [0-9]" "$BATS_TEST_TMPDIR/licences"; done
    [ "$(grep -c '^proptest ' "$BATS_TEST_TMPDIR/licences")" = 0 ]
    grep -q 'Permission is hereby granted' "$BATS_TEST_TMPDIR/licences"
}

@test "installed: the command runs, the service user and the directories are there" {
    inside 'install; pyxis --version | cut -d" " -f1; id -un pyxis; stat -c "%U %a %n" /var/lib/pyxis /var/lib/pyxis-data /run/pyxis
        readlink -f /usr/lib/*/slurm/spank_pyxis.so | sed "s/[^/]*-linux-gnu/TRIPLET/"; cat /usr/share/pyxis/pyxis.conf'
    says "$(printf '%s\n' pyxis pyxis 'root 700 /var/lib/pyxis' 'root 755 /var/lib/pyxis-data' 'root 755 /run/pyxis' \
        /usr/lib/TRIPLET/slurm-wlm/spank_pyxis.so 'required spank_pyxis.so')"
}

@test "again over changed settings: they stay, and so does what the store has" {
    inside 'install; echo "[store]" >/etc/pyxis/pyxis.toml; echo pack >/var/lib/pyxis/x; install; cat /etc/pyxis/pyxis.toml /var/lib/pyxis/x'
    says $'[store]\npack'
}

@test "removed and purged: nothing is left but data" {
    inside 'files() { find /usr /etc /var -path /var/cache -prune -o -path /var/lib/dpkg -prune -o -print | sort; }
        files >/root/before
        install; echo pack >/var/lib/pyxis/x; dpkg --remove pyxis >/dev/null; test -e /etc/pyxis/pyxis.toml; ! which pyxis
        dpkg --purge pyxis >/dev/null
        files >/root/after
        diff /root/before /root/after | grep "^[<>]" | grep -v "/etc/.*-$\|/var/log\|/etc/\.pwd\.lock"'
    says $'> /var/lib/pyxis\n> /var/lib/pyxis/x'
    [[ $stderr == *"/var/lib/pyxis is kept: remove it if nobody needs what is in it"* ]]
    inside 'install; echo pack >/var/lib/pyxis/x; echo "pyxis pyxis/purge_data boolean true" | debconf-set-selections
        dpkg --purge pyxis >/dev/null; ls -d /var/lib/pyxis* 2>/dev/null || true; debconf-show pyxis'
    says ""
    inside 'install; dpkg --purge pyxis >/dev/null; ls -d /var/lib/pyxis* /etc/pyxis 2>/dev/null || true; getent passwd pyxis || true'
    says ""
}

@test "beside another plugin of this name: refused, with the reason" {
    inside 'mkdir -p /etc/slurm/plugstack.conf.d /usr/local/lib/slurm; touch /usr/local/lib/slurm/spank_pyxis.so
        echo "required /usr/local/lib/slurm/spank_pyxis.so" >/etc/slurm/plugstack.conf.d/pyxis.conf
        ! install; which pyxis || true'
    [[ $output == *"/etc/slurm/plugstack.conf.d/pyxis.conf loads another plugin of this name, /usr/local/lib/slurm/spank_pyxis.so"* ]] || { shows; return 1; }
    [[ $output != */usr/bin/pyxis* ]]
}

@test "the rpm: installed, installed again over changed settings, erased" {
    local tree=$BATS_TEST_TMPDIR/root
    cp -a "$debian" "$tree"
    rpm --root "$tree" -i --nodeps "$RPM"
    chroot "$tree" pyxis --version
    [ "$(chroot "$tree" stat -c '%U %a %n' /var/lib/pyxis /var/lib/pyxis-data)" = $'root 700 /var/lib/pyxis\nroot 755 /var/lib/pyxis-data' ]
    chroot "$tree" id pyxis
    echo "[store]" >"$tree/etc/pyxis/pyxis.toml"
    echo pack >"$tree/var/lib/pyxis/x"
    rpm --root "$tree" -U --nodeps --replacepkgs "$RPM"
    [ "$(cat "$tree/etc/pyxis/pyxis.toml")" = "[store]" ]
    rpm --root "$tree" -e pyxis
    [ "$(cat "$tree/etc/pyxis/pyxis.toml.rpmsave" "$tree/var/lib/pyxis/x")" = $'[store]\npack' ]
    [ "$(find "$tree/usr" -path '*pyxis*' | wc -l)" = 0 ]
}
