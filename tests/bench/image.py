"""The images of the import benchmark (more than 1 GiB in six or more layers of real files of this machine) and of the
save benchmark (the same, and more layers, 2 GiB).

`image.py REGISTRY DEBIAN_TREE WORK_DIR`: the first layer is the Debian tree, the others are parts of this machine and of
its Rust toolchain, at most 300 MB each: libraries, programs, documentation of many small files.
"""

import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "images"))
from oci import Image, Layer, Registry  # noqa: E402

LAYER_SIZE, IMAGE_SIZE, SAVED_SIZE = 300 << 20, 1300 << 20, 2048 << 20
CONFIG = {"Env": ["PATH=/usr/bin:/bin"]}


def sources():
    """Directories to take files from, in order."""
    rust = subprocess.run(["rustc", "--print", "sysroot"], stdout=subprocess.PIPE, check=True, text=True).stdout.strip()
    return [rust + "/lib", rust + "/share", "/usr/lib", "/usr/bin", "/usr/share", rust + "/bin"]


def names_below(top):
    """Every regular file, directory and link below a directory, relative to the root, with its size."""
    for directory, directories, files in os.walk(top):
        directories.sort()
        for name in ["."] + sorted(files):
            path = os.path.normpath(os.path.join(directory, name))
            if os.path.isfile(path) or os.path.islink(path) or name == ".":
                yield os.path.relpath(path, "/"), os.lstat(path).st_size


def portions():
    """Lists of names, each about one layer large, until there is enough."""
    total = 0
    for top in sources():
        portion, size = [], 0
        for name, length in names_below(top):
            portion.append(name)
            size += length
            if size > LAYER_SIZE:
                break
        if size > 10 << 20:
            yield portion
            total += size
        if total > SAVED_SIZE:
            return


def main(address, tree, work):
    """Builds and pushes."""
    layers, total, pushed = [Layer.of_tree(tree, work)], 0, False
    for portion in portions():
        layers.append(Layer.of_tree("/", work, names=portion))
        total += layers[-1].size
        print(f"layer of {layers[-1].size >> 20} MiB, {layers[-1].blob.size >> 20} MiB packed", file=sys.stderr)
        if total > IMAGE_SIZE and not pushed:
            pushed = True
            Registry(address).push("bench", "latest", Image(layers, CONFIG))
    Registry(address).push("bench-2g", "latest", Image(layers, CONFIG))


main(*sys.argv[1:])
