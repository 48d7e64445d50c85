# Where AppArmor lets only programs with a profile make user namespaces, as on Ubuntu 23.10 and newer. Runs in a virtual machine
# (tests/vm/run trixie bats tests/vm/apparmor.bats): the kernel of this one may have no AppArmor. Debian's kernel does not
# restrict programs without a profile, so users are confined by one that lacks nothing else.

setup_file() {
    make --no-print-directory install install-names >/dev/null
    useradd --create-home user
    chmod 0666 /dev/fuse
    apparmor_parser --replace <<'PROFILE'
abi <abi/4.0>,
profile user {
  capability,
  network,
  mount,
  umount,
  pivot_root,
  signal,
  ptrace,
  unix,
  / rw,
  /** rwlkm,
  /** pix,
}
PROFILE
    mkdir /tmp/image /tmp/image/bin
    cp "$(command -v busybox)" /tmp/image/bin/sh
    mksquashfs /tmp/image /home/user/box.sqsh -quiet -no-progress >/dev/null
}

# user COMMAND...: by a shell of the user's, which is confined.
user() {
    run runuser -u user -- env -C /home/user XDG_RUNTIME_DIR=/home/user aa-exec -p user -- sh -c '"$@"' sh "$@"
}

@test "the kernel restricts them" {
    user cat /proc/self/attr/current
    [[ $output == user* ]] || { echo "$output"; false; }
    user unshare --user true
    [ "$status" != 0 ]
}

@test "without the profile: one line, which says what to do" {
    user enroot start box.sqsh -c 'echo inside'
    echo "$output"
    [ "$status" != 0 ]
    [ "$(wc -l <<<"$output")" = 1 ]
    [[ $output == *"user namespace"* ]]
}

@test "with it, loaded as the page about installing says" {
    cp /usr/share/pyxis-names/apparmor /etc/apparmor.d/pyxis
    apparmor_parser --replace /etc/apparmor.d/pyxis
    user enroot start box.sqsh /bin/sh -c 'echo inside'
    [ "$output" = inside ] || { echo "$output"; false; }
    user unshare --user true
    [ "$status" != 0 ]
}
