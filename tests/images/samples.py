"""The images of the tests: well-made ones of every shape, and ones whose layers are evil but whose digests are right.

Run as `samples.py REGISTRY DEBIAN_TREE WORK_DIR`: builds them and pushes them. `hostile/registry.py` serves the ones
whose bytes do not even match their digests.
"""

import os
import subprocess
import sys
import tarfile

from oci import Image, Layer, Registry, Tar, raw_header

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PLAIN = {"Env": ["PATH=" + PATH], "Cmd": ["sh"]}
BUSYBOX = "/bin/busybox"


def busybox_tar():
    """A small root file system: busybox under all its names."""
    with open(BUSYBOX, "rb") as file:
        program = file.read()
    tar = Tar()
    for name in ("bin", "dev", "etc", "home", "proc", "root", "sys", "usr", "usr/bin", "usr/sbin", "sbin", "var"):
        tar.dir(name + "/")
    tar.dir("tmp/", mode=0o1777)
    tar.file("bin/busybox", program, mode=0o755)
    names = subprocess.run([BUSYBOX, "--list"], stdout=subprocess.PIPE, check=True, text=True).stdout.split()
    for name in names:
        if name != "busybox":
            tar.symlink("bin/" + name, "busybox")
    tar.file("etc/os-release", 'PRETTY_NAME="Busybox in a container"\nID=busybox\n')
    tar.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n_apt:x:42:65534::/nonexistent:/bin/false\n"
             "games:x:5:60:games:/usr/games:/bin/sh\n")
    tar.file("etc/group", "root:x:0:\ntty:x:5:\ngames:x:60:\n")
    return tar


def busybox():
    """The base layer of nearly all samples."""
    return Layer(busybox_tar())


def shapes():
    """An image with a layer of each packing and everything that layers can do to each other."""
    below = (
        Tar()
        .dir("w/").file("w/kept", "kept\n").file("w/removed", "removed\n")
        .dir("w/removed-dir/").file("w/removed-dir/inside", "x")
        .dir("w/opaque/").file("w/opaque/old", "old\n").dir("w/opaque/old-dir/").file("w/opaque/old-dir/x", "x")
        .file("w/becomes-dir", "file\n").dir("w/becomes-file/").file("w/becomes-file/x", "x")
        .file("w/replaced", "below\n")
    )
    above = (
        Tar()
        .dir("w/").file("w/.wh.removed", "").file("w/.wh.removed-dir", "")
        .dir("w/opaque/").file("w/opaque/.wh..wh..opq", "").file("w/opaque/new", "new\n")
        .dir("w/becomes-dir/").file("w/becomes-dir/inside", "inside\n").file("w/becomes-file", "file now\n")
        .file("w/replaced", "above\n")
    )
    files = (
        Tar()
        .dir("f/").file("f/one", "linked\n").hardlink("f/two", "f/one").hardlink("f/three", "f/two")
        .symlink("f/absolute", "/f/one").symlink("f/relative", "one").symlink("f/dangling", "/nowhere")
        .file("f/attr", "x", xattrs={"user.colour": "blue"})
        .file("f/owned", "x", uid=4242, gid=4343).file("f/secret", "x", mode=0o600, uid=4242)
        .file("f/setuid", "x", mode=0o6755)
        .file("f/capable", "x", mode=0o755, xattrs={"security.capability": "\x01\x00\x00\x02" + "\x00" * 16})
        .device("f/null", 1, 3).add("f/fifo", tarfile.FIFOTYPE)
        .file("f/" + "n" * 255, "long name\n").dir("f/" + "d" * 120 + "/")
        .file("f/" + "d" * 120 + "/" + "e" * 120, "deep\n")
        .file("f/\N{SNOWMAN} and a space", "odd name\n").file("f/empty", "")
        .file("f/large", bytes(range(256)) * 4096 * 3 + b"tail")
        .file("without/parents/file", "orphan\n")
    )
    return Image([
        busybox(), Layer(below, "zstd"), Layer(above, "none"), Layer(Tar()), Layer(files, "gzip"),
    ], PLAIN)


def rich_config():
    """An image that sets what an image can set."""
    tar = (
        Tar().dir("opt/").dir("opt/bin/").dir("opt/work/")
        .file("opt/bin/only-here", "#!/bin/sh\necho from the image\n", mode=0o755)
        .file("opt/bin/entry", "#!/bin/sh\nexport ENTERED=yes\nexec \"$@\"\n", mode=0o755)
    )
    return Image([busybox(), Layer(tar)], {
        "Env": ["PATH=/opt/bin:" + PATH, "FROM_IMAGE=image", "SHARED=image", "LANG=xx_XX.UTF-8", "EMPTY=",
                "WITH=equals=signs and spaces"],
        "WorkingDir": "/opt/work", "Entrypoint": ["/opt/bin/entry"], "Cmd": ["sh"],
    })


def entrypoints():
    """Images with entrypoints: one that does what the variable ENTRY says, and ones that are strange in themselves."""
    tar = Tar().dir("opt/").dir("opt/bin/").dir("opt/work/").file(
        "opt/bin/entry", '#!/bin/sh\neval "$ENTRY"\nexec "$@"\n', mode=0o755)
    env = ["PATH=/opt/bin:" + PATH, "SHARED=image", "GONE=image"]

    def image(*words):
        return Image([busybox(), Layer(tar)], {"Env": env, "WorkingDir": "/opt/work", "Entrypoint": list(words),
                                               "Cmd": ["never", "given"]})

    with open(BUSYBOX, "rb") as file:
        alone = Layer(Tar().file("busybox", file.read(), mode=0o755))
    return {
        "entry": image("/opt/bin/entry"),
        "entry-searched": image("entry"),
        "entry-shell-form": image("/bin/sh", "-c", "echo shell form; echo \x1b[31mred"),
        "entry-missing": image("/opt/bin/missing"),
        "entry-no-shell": Image([alone], {"Entrypoint": ["/busybox", "env"]}),
    }


def bare():
    """An image from nothing: one program, no directory that the runtime might count on."""
    with open(BUSYBOX, "rb") as file:
        return Image([Layer(Tar().file("busybox", file.read(), mode=0o755))], {"Cmd": ["/busybox"]})


def trap(name, *entries):
    """An image in which `name` is a symbolic link, plus whatever is given."""
    tar = Tar()
    whiteout = os.path.join(os.path.dirname(name), ".wh." + os.path.basename(name))
    tar.file(whiteout, "")
    link = Tar().symlink(name, entries[0])
    return Image([busybox(), Layer(tar), Layer(link)], PLAIN)


def traps():
    """Images whose own names lead to the host, if anybody followed them outside of the root file system."""
    return {
        "trap-dev": trap("dev", "/var/lib/pyxis-test/trap"),
        "trap-dev-up": trap("dev", "../../../../../../../../var/lib/pyxis-test/trap"),
        "trap-proc": trap("proc", "/var/lib/pyxis-test/trap"),
        "trap-sys": trap("sys", "../../../../../../../../var/lib/pyxis-test/trap"),
        "trap-etc": trap("etc", "../../../../../../../../var/lib/pyxis-test/trap"),
        "trap-tmp": trap("tmp", "/proc/1/root/tmp"),
        "trap-mount": Image([busybox(), Layer(
            Tar().symlink("data", "../../../../../../../../var/lib/pyxis-test/trap")
            .symlink("magic", "/proc/self/cwd").symlink("loop", "loop")
        )], PLAIN),
        "trap-passwd": Image([busybox(), Layer(
            Tar().file("etc/.wh.passwd", "")
        ), Layer(Tar().symlink("etc/passwd", "../../../../../../../../var/lib/pyxis-test/trap/passwd"))], PLAIN),
        "trap-workdir": Image([busybox()], {**PLAIN, "WorkingDir": "../../../../../../../../var/lib/pyxis-test/trap"}),
    }


def evil_layers():
    """Tar streams that try to write elsewhere, or that no file system could hold."""
    long_name = b"n" * 300
    return {
        "tar-dotdot": Tar().file("../escaped", "x"),
        "tar-dotdot-inside": Tar().file("a/../../escaped", "x"),
        "tar-absolute": Tar().file("/absolute", "x"),
        "tar-symlink-then-file": Tar().symlink("out", "/var/lib/pyxis-test/trap").file("out/escaped", "x"),
        "tar-hardlink-up": Tar().hardlink("stolen", "../../../../etc/shadow"),
        "tar-hardlink-absolute": Tar().hardlink("stolen", "/etc/shadow"),
        "tar-hardlink-symlink": Tar().symlink("out", "/etc").hardlink("stolen", "out/shadow"),
        "tar-hardlink-missing": Tar().hardlink("stolen", "not/there"),
        "tar-hardlink-dir": Tar().dir("d/").hardlink("loop", "d"),
        "tar-whiteout-symlink": Tar().symlink("out", "/var/lib/pyxis-test/trap").file("out/.wh.keep", ""),
        "tar-whiteout-dotdot": Tar().file("a/.wh...", ""),
        "tar-long-name": Tar().add("x/" + long_name.decode(), data=b"x"),
        "tar-duplicates": Tar().file("dup", "first").file("dup", "second").dir("dup2/").file("dup2", "now a file")
        .file("dup3", "a file").dir("dup3/").file("dup3/x", "x"),
        "tar-devices": Tar().device("sda", 8, 0, tarfile.BLKTYPE).device("mem", 1, 1),
        "tar-setuid": Tar().file("suid", "x", mode=0o4755).file("sgid", "x", mode=0o2755),
        "tar-empty-name": Tar().raw(raw_header(b"", kind=b"0")),
        "tar-unknown-type": Tar().raw(raw_header(b"strange", kind=b"Z")),
        "tar-huge-size": raw_header(b"huge", size=0o77777777777) + b"x" * 512,
        "tar-bad-checksum": b"a" * 512 + bytes(1024),
        "tar-cut-header": raw_header(b"cut")[:100],
        "tar-cut-data": raw_header(b"cut", size=5000) + b"x" * 512,
        "tar-root-file": Tar().file("./", "x"),
        "tar-nul-name": Tar().raw(raw_header(b"good\0evil")),
        "tar-overlay-xattr": Tar().file("o", "x", xattrs={"trusted.overlay.redirect": "/etc", "trusted.overlay.opaque": "y"}),
    }


def push_all(registry, debian_tree, work):
    """Builds and pushes every sample."""
    base = Image([busybox()], PLAIN)
    registry.push("busybox", "latest", base)
    registry.push("busybox", "1.35", base)
    registry.push("team/project/busybox", "latest", base)
    registry.push("shapes", "latest", shapes())
    registry.push("rich", "latest", rich_config())
    registry.push("bare", "latest", bare())
    for name, image in entrypoints().items():
        registry.push(name, "latest", image)
    registry.push("schema2", "latest", Image([busybox()], PLAIN, docker=True))
    registry.push("deep", "latest", Image(
        [busybox()] + [Layer(Tar().dir("deep/").file(f"deep/{n}", str(n))) for n in range(40)], PLAIN))
    other = Image([Layer(Tar().file("arm", "x"))], PLAIN, arch="arm64", variant="v8")
    attestation = Image([Layer(b"{}", "none", "application/vnd.in-toto+json")], arch="unknown")
    attestation.platform = {"architecture": "unknown", "os": "unknown"}
    registry.push_index("index", "latest", [other, base, attestation])
    registry.push_index("list", "latest", [
        Image([Layer(Tar().file("arm", "x"))], PLAIN, arch="arm64", docker=True),
        Image([busybox()], PLAIN, docker=True)], docker=True)
    registry.push_index("arm-only", "latest", [other, attestation])
    registry.push("arm-single", "latest", other)
    registry.push("pytorch", "latest", Image([busybox()], {"Env": PLAIN["Env"] + ["PYTORCH_VERSION=2.4"]}))
    # What a job script needs: a python3 whose scripts are the shell's.
    model = [busybox(), Layer(Tar().file("usr/bin/python3", '#!/bin/sh\nexec sh "$@"\n', mode=0o755))]
    registry.push("model", "latest", Image(model, PLAIN))
    registry.push("nvidia/pytorch", "24.10-py3", Image(model, {
        "Env": PLAIN["Env"] + ["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"]}))
    for name, image in traps().items():
        registry.push(name, "latest", image)
    for name, tar in evil_layers().items():
        registry.push(name, "latest", Image([busybox(), Layer(tar)], PLAIN))
    if debian_tree:
        image = debian(debian_tree, work)
        registry.push("library/debian", "12", image)
        for name in ("openmpi", "mpich"):
            tree = os.path.join(os.path.dirname(debian_tree), "mpi", name)
            # Plug-ins for networks that are not here do not load, and say so unless they are told not to.
            # Two nodes on one machine are not to be taken for one.
            env = ["PATH=" + PATH, "OMPI_MCA_mca_base_component_show_load_errors=0", "UCX_TLS=tcp,self"]
            registry.push("mpi", name, Image(image.layers + [Layer.of_tree(tree, work, "zstd")],
                                             {"Env": env, "Cmd": ["mpi-test"]}))


def debian(tree, work):
    """Debian as debootstrap made it, with a line of its own so that nobody mistakes the host for it."""
    with open(os.path.join(tree, "etc/os-release"), encoding="utf-8") as file:
        lines = file.read().splitlines()
    lines = [line for line in lines if not line.startswith("PRETTY_NAME=")]
    text = '\n'.join(['PRETTY_NAME="Debian GNU/Linux 12 (bookworm) in a container"'] + lines) + "\n"
    mark = Tar().dir("usr/lib/").file("usr/lib/os-release", text)
    note = Tar().dir("etc/").file("etc/motd", "A sample image.\n")
    return Image([Layer.of_tree(tree, work), Layer(mark, "zstd"), Layer(note)],
                 {"Env": ["PATH=" + PATH], "WorkingDir": "/", "Cmd": ["bash"]})


if __name__ == "__main__":
    if len(sys.argv) == 5 and sys.argv[4] == "only-debian":
        Registry(sys.argv[1]).push("library/debian", "12", debian(sys.argv[2], sys.argv[3]))
    else:
        push_all(Registry(sys.argv[1]), sys.argv[2], sys.argv[3])
