"""Images in files: OCI layouts and archives of Docker's, good ones and evil ones. Run as `images.py DIRECTORY`."""

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "images"))
from oci import Blob, Image, Layer, OCI_INDEX, Tar, digest, index  # noqa: E402
from samples import PATH, busybox_tar  # noqa: E402

NAME = "org.opencontainers.image.ref.name"
MARK = b'{"imageLayoutVersion":"1.0.0"}'


def image(text, packing="gzip", **more):
    """Busybox and a file that tells images apart."""
    top = Layer(Tar().file("image", text + "\n"), packing)
    return Image([Layer(busybox_tar(), packing), top], {"Env": ["PATH=" + PATH, "MARK=" + text], "WorkingDir": "/tmp"}, **more)


def entry(image, name=None):
    """The line of an index."""
    line = image.entry()
    if name:
        line["annotations"] = {NAME: name}
    return line


def layout(entries, images, extra=()):
    """The files of a layout by name. `entries` is what its index lists."""
    files = {"oci-layout": MARK}
    files["index.json"] = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    blobs = [blob for image in images for blob in image.blobs() + [Blob(image.bytes())]]
    for blob in blobs + [Blob(data) for data in extra]:
        files["blobs/sha256/" + blob.digest.split(":")[1]] = blob.data
    return files


def directory(path, files):
    """Writes files below a directory."""
    for name, data in files.items():
        os.makedirs(os.path.dirname(os.path.join(path, name)), exist_ok=True)
        with open(os.path.join(path, name), "wb") as file:
            file.write(data)


def archive(path, files, links=(), packer=lambda data: data):
    """Writes files, given as a dictionary or as pairs, as a tar file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
        for name, data in files.items() if isinstance(files, dict) else files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with open(path, "wb") as file:
        file.write(packer(buffer.getvalue()))


def docker(images, layer_name=lambda number, layer: f"{layer.diff_id.split(':')[1]}.tar"):
    """The files of an archive as docker save makes it. `images` are pairs of a list of names and an image."""
    files, lines = {}, []
    for names, image in images:
        config = image.config.digest.split(":")[1] + ".json"
        files[config] = image.config.data
        members = [layer_name(number, layer) for number, layer in enumerate(image.layers)]
        files.update((member, layer.blob.data) for member, layer in zip(members, image.layers))
        lines.append({"Config": config, "RepoTags": names, "Layers": members})
    files["manifest.json"] = json.dumps(lines).encode()
    return files


def zstd(data):
    """Bytes as a zstd stream."""
    return subprocess.run(["zstd", "-q"], input=data, stdout=subprocess.PIPE, check=True).stdout


def good(top):
    """Well-made ones."""
    one, two, arm = image("one"), image("two", "zstd"), image("arm", arch="arm64")
    files = layout([entry(one, "one"), entry(two, "localhost/two:latest")], [one, two])
    directory(top + "/two-images", files)
    archive(top + "/two-images.tar", files)
    # A link that stays in the directory is as good as a file.
    blob = "blobs/sha256/" + one.config.digest.split(":")[1]
    directory(top + "/linked", {"config": files[blob], **layout([entry(one)], [one])})
    os.unlink(f"{top}/linked/{blob}")
    os.symlink("../../config", f"{top}/linked/{blob}")
    inner = index([arm, one])
    line = {"mediaType": OCI_INDEX, "digest": digest(inner), "size": len(inner), "annotations": {NAME: "any"}}
    directory(top + "/machines", layout([line], [arm, one], [inner]))
    plain, other = image("plain", "none"), image("other", "none")
    archive(top + "/docker.tar", docker([(["plain:1", "x/plain:2"], plain)]))
    archive(top + "/docker.tar.gz", docker([(["plain:1"], plain)]), packer=lambda data: gzip.compress(data, 1))
    archive(top + "/docker.tar.zst", docker([(["plain:1"], plain)]), packer=zstd)
    archive(top + "/docker-two.tar", docker([(["plain:1"], plain), (["docker.io/library/other:1"], other)]))
    archive(top + "/docker-none.tar", docker([(None, plain)]))
    archive(top + "/docker-packed.tar", docker([(["packed:1"], image("packed", "gzip"))]))
    # Old versions have a directory for each layer, and a link where a layer comes again.
    old = Image([plain.layers[0], plain.layers[1], plain.layers[0]], {"Env": ["PATH=" + PATH]})
    files = docker([(["old:1"], old)], lambda number, layer: f"{number}{layer.diff_id[7:]}/layer.tar")
    first, last = (f"{number}{plain.layers[0].diff_id[7:]}/layer.tar" for number in (0, 2))
    del files[last]
    archive(top + "/docker-old.tar", files, links=[(last, "../" + first)])
    # New ones write a layout with the same in it.
    files = docker([(["new:1"], plain)], lambda number, layer: "blobs/sha256/" + layer.blob.digest.split(":")[1])
    archive(top + "/docker-new.tar", {**layout([entry(plain, "new")], [plain]), **files})


def bad(top):
    """Ill-made ones: each is one image but for what its name says."""
    one, plain = image("one"), image("plain", "none")
    files = layout([entry(one)], [one])
    blob = "blobs/sha256/" + one.layers[1].blob.digest.split(":")[1]
    manifest = "blobs/sha256/" + digest(one.bytes()).split(":")[1]
    config = "blobs/sha256/" + one.config.digest.split(":")[1]
    without = lambda name: {key: data for key, data in files.items() if key != name}
    variants = {
        "no-mark": without("oci-layout"),
        "no-index": without("index.json"),
        "no-manifest": without(manifest),
        "no-config": without(config),
        "no-layer": without(blob),
        "bad-layer": {**files, blob: files[blob][:-1] + b"x"},
        "short-layer": {**files, blob: files[blob][:-1]},
        "bad-manifest": {**files, manifest: files[manifest].replace(b"schemaVersion", b"schemaversion")},
        "bad-config": {**files, config: files[config].replace(b"MARK=one", b"MARK=two")},
        "bad-index": {**files, "index.json": b"[]"},
        "huge-index": {**files, "index.json": b" " * (5 << 20) + files["index.json"]},
        "arm": layout([entry(image("arm", arch="arm64"))], [image("arm", arch="arm64")]),
    }
    wrong = Image([Layer(busybox_tar()), Layer(Tar().file("x", "x"), diff_id=digest(b"another"))], {})
    variants["bad-diff-id"] = layout([entry(wrong)], [wrong])
    # An index of an index of an index ...
    line, nested = entry(one), {}
    for _ in range(100):
        data = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [line]}).encode()
        nested["blobs/sha256/" + digest(data).split(":")[1]] = data
        line = {"mediaType": OCI_INDEX, "digest": digest(data), "size": len(data)}
    variants["deep"] = {**layout([line], [one]), **nested}
    for name, content in variants.items():
        directory(f"{top}/{name}", content)
        archive(f"{top}/{name}.tar", content)
    for name, target, member in [("shadow", "/etc/shadow", blob), ("shadow-index", "/etc/shadow", "index.json"),
                                 ("climbs", "../../../../../../etc/passwd", config)]:
        directory(f"{top}/{name}", without(member))
        os.symlink(target, f"{top}/{name}/{member}")
        archive(f"{top}/{name}.tar", without(member), links=[(member, target)])
    bad_docker(top, plain)


def bad_docker(top, plain):
    """Ill-made archives of Docker's."""
    files = docker([(["plain:1"], plain)])
    layer = f"{plain.layers[1].diff_id[7:]}.tar"
    config = plain.config.digest.split(":")[1] + ".json"
    without = lambda name: {key: data for key, data in files.items() if key != name}
    lines = json.loads(files["manifest.json"])
    climbing = json.dumps([{**lines[0], "Layers": [lines[0]["Layers"][0], "../../../../etc/shadow"]}]).encode()
    for name, content in {
        "docker-no-manifest": without("manifest.json"),
        "docker-no-config": without(config),
        "docker-no-layer": without(layer),
        "docker-bad-layer": {**files, layer: files[layer].replace(b"plain\n", b"spoil\n")},
        "docker-climbs": {**files, "manifest.json": climbing, "../../../../etc/shadow": b"x" * 1024},
        "docker-huge": {**files, "manifest.json": b" " * (5 << 20) + files["manifest.json"]},
        "docker-twice": list(files.items()) + [("./manifest.json", files["manifest.json"])],
        "docker-counts": {**files, "manifest.json": json.dumps([{**lines[0], "Layers": []}]).encode()},
    }.items():
        archive(f"{top}/{name}.tar", content)
    archive(f"{top}/docker-shadow.tar", without(layer), links=[(layer, "/etc/shadow")])
    with open(f"{top}/docker-bad-layer.tar", "rb") as file:
        data = file.read()
    with open(f"{top}/docker-cut.tar", "wb") as file:
        file.write(data[: len(data) // 2])
    with open(f"{top}/docker-cut.tar.gz", "wb") as file:
        file.write(gzip.compress(data, 1)[:-1000])
    # Little that becomes much.
    with open(f"{top}/bomb.tar.gz", "wb") as file:
        file.write(gzip.compress(b"\0" * (64 << 20), 9))


if __name__ == "__main__":
    good(sys.argv[1])
    os.mkdir(sys.argv[1] + "/bad")
    bad(sys.argv[1] + "/bad")
