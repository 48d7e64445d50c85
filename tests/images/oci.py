"""Makes container images by hand, byte by byte where a test wants it so, and pushes them to a registry.

Only the standard library and the zstd command: an image library would refuse to make the bad ones.
"""

import gzip
import hashlib
import http.client
import io
import json
import os
import subprocess
import tarfile
import tempfile
import urllib.parse

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"

# One moment for all files, so that the same image has the same digest on every machine.
MTIME = 1700000000


def digest(data):
    """The digest of bytes as images spell it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Blob:
    """Bytes with a digest, in memory or (when large) in a file."""

    def __init__(self, data=None, path=None):
        self.data, self.path = data, path
        if path is None:
            self.digest, self.size = digest(data), len(data)
        else:
            sha = hashlib.sha256()
            with open(path, "rb") as file:
                while chunk := file.read(1 << 20):
                    sha.update(chunk)
            self.digest, self.size = "sha256:" + sha.hexdigest(), os.path.getsize(path)

    def open(self):
        """A fresh reader over the bytes."""
        return io.BytesIO(self.data) if self.path is None else open(self.path, "rb")


class Tar:
    """A layer's tar stream under construction. Names go in exactly as given."""

    def __init__(self):
        self.buffer = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.buffer, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, name, kind=tarfile.REGTYPE, data=b"", mode=None, link="", uid=0, gid=0, xattrs=None, device=(0, 0)):
        """Adds one entry."""
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.mtime = kind, link, MTIME
        info.mode = mode if mode is not None else (0o755 if kind == tarfile.DIRTYPE else 0o644)
        info.uid, info.gid = uid, gid
        info.devmajor, info.devminor = device
        for key, value in (xattrs or {}).items():
            info.pax_headers["SCHILY.xattr." + key] = value
        if isinstance(data, str):
            data = data.encode()
        info.size = len(data) if kind == tarfile.REGTYPE else 0
        self.tar.addfile(info, io.BytesIO(data) if info.size else None)
        return self

    def dir(self, name, mode=0o755, **more):
        """A directory."""
        return self.add(name, tarfile.DIRTYPE, mode=mode, **more)

    def file(self, name, data, mode=0o644, **more):
        """A regular file."""
        return self.add(name, data=data, mode=mode, **more)

    def symlink(self, name, target):
        """A symbolic link."""
        return self.add(name, tarfile.SYMTYPE, link=target, mode=0o777)

    def hardlink(self, name, target):
        """A hard link to an entry of the same layer (or so it should be)."""
        return self.add(name, tarfile.LNKTYPE, link=target)

    def device(self, name, major, minor, kind=tarfile.CHRTYPE):
        """A device node."""
        return self.add(name, kind, device=(major, minor), mode=0o666)

    def raw(self, data):
        """Bytes as they are, between entries."""
        self.buffer.write(data)
        self.tar.offset += len(data)
        return self

    def bytes(self):
        """The finished stream."""
        self.tar.close()
        return self.buffer.getvalue()


def raw_header(name, size=0, kind=b"0", mode=0o644, link=b"", magic=b"ustar\x0000"):
    """A ustar header with any name and type at all, with a right checksum."""
    head = bytearray(512)
    head[0:100] = name[:100].ljust(100, b"\0")
    head[100:108] = b"%07o\0" % mode
    head[108:124] = b"0000000\0" * 2
    head[124:136] = b"%011o\0" % size
    head[136:148] = b"%011o\0" % MTIME
    head[148:156] = b" " * 8
    head[156:157] = kind
    head[157:257] = link[:100].ljust(100, b"\0")
    head[257:265] = magic
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


class Layer:
    """One layer: its tar stream, how it is packed, and what the manifest says of it."""

    def __init__(self, tar, packing="gzip", media_type=None, diff_id=None):
        data = tar.bytes() if isinstance(tar, Tar) else tar
        self.diff_id = diff_id or digest(data)
        suffix = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}[packing]
        self.media_type = media_type or OCI_LAYER + suffix
        self.blob = Blob(pack(data, packing))

    @classmethod
    def of_tree(cls, tree, work, packing="gzip", names=None):
        """A layer of a directory tree (or of these names in it), by GNU tar; the blob stays in the directory `work`."""
        with tempfile.NamedTemporaryFile(dir=work, suffix=".tar") as tar:
            what = ["."] if names is None else ["--no-recursion", "--null", "--verbatim-files-from", "--files-from=-"]
            subprocess.run(
                ["tar", "--create", "--file", tar.name, "--numeric-owner", "--xattrs", "--sort=name", "-C", tree, *what],
                input=None if names is None else b"".join(os.fsencode(name) + b"\0" for name in names),
                check=True,
            )
            self = cls.__new__(cls)
            self.diff_id = Blob(path=tar.name).digest
            tool = {"gzip": ["gzip", "-6", "-n"], "zstd": ["zstd", "-q", "-3"], "none": ["cat"]}[packing]
            packed = os.path.join(work, self.diff_id.split(":")[1])
            with open(packed, "wb") as sink:
                subprocess.run(tool, stdin=tar, stdout=sink, check=True)
            self.size = os.path.getsize(tar.name)
        self.media_type = OCI_LAYER + {"gzip": "+gzip", "zstd": "+zstd", "none": ""}[packing]
        self.blob = Blob(path=packed)
        return self

    def descriptor(self):
        """What the manifest says of the layer."""
        return {"mediaType": self.media_type, "digest": self.blob.digest, "size": self.blob.size}


def pack(data, packing):
    """Bytes as gzip, zstd or as they are."""
    if packing == "gzip":
        return gzip.compress(data, 6, mtime=0)
    if packing == "zstd":
        return subprocess.run(["zstd", "-q", "-3"], input=data, stdout=subprocess.PIPE, check=True).stdout
    return data


class Image:
    """Config, layers and manifest. The documents can be changed before they are pushed or served."""

    def __init__(self, layers, config=None, arch="amd64", docker=False, variant=None):
        self.layers = layers
        self.docker = docker
        self.platform = {"architecture": arch, "os": "linux"}
        if variant:
            self.platform["variant"] = variant
        document = dict(self.platform)
        document["config"] = config or {}
        document["rootfs"] = {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]}
        document["history"] = [{"created_by": "test"} for _ in layers]
        self.config = Blob(json.dumps(document).encode())
        self.manifest = {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST if docker else OCI_MANIFEST,
            "config": {
                "mediaType": DOCKER_CONFIG if docker else OCI_CONFIG,
                "digest": self.config.digest,
                "size": self.config.size,
            },
            "layers": [layer.descriptor() for layer in layers],
        }
        if docker:
            for entry in self.manifest["layers"]:
                entry["mediaType"] = DOCKER_LAYER

    @property
    def media_type(self):
        """The manifest's media type."""
        return self.manifest["mediaType"]

    def blobs(self):
        """All blobs that the manifest names."""
        return [self.config] + [layer.blob for layer in self.layers]

    def bytes(self):
        """The manifest as it is sent."""
        return json.dumps(self.manifest).encode()

    def entry(self):
        """The line of an index for this image."""
        data = self.bytes()
        return {"mediaType": self.media_type, "digest": digest(data), "size": len(data), "platform": self.platform}


def index(images, docker=False, extra=()):
    """An index (or manifest list) over images, as bytes."""
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": DOCKER_LIST if docker else OCI_INDEX,
            "manifests": [image.entry() for image in images] + list(extra),
        }
    ).encode()


class Registry:
    """The pushing half of a registry client."""

    def __init__(self, address):
        self.address = address

    def request(self, method, path, body=None, headers=None):
        """One request: (status, headers)."""
        connection = http.client.HTTPConnection(self.address, timeout=120)
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        text = response.read()
        connection.close()
        if response.status >= 400 and method != "HEAD":
            raise RuntimeError(f"{method} {path}: {response.status} {text[:300]!r}")
        return response.status, response.headers

    def push_blob(self, name, blob):
        """Uploads a blob unless it is there."""
        if self.request("HEAD", f"/v2/{name}/blobs/{blob.digest}")[0] == 200:
            return
        _, headers = self.request("POST", f"/v2/{name}/blobs/uploads/", headers={"Content-Length": "0"})
        where = urllib.parse.urlsplit(headers["Location"])
        path = f"{where.path}?{where.query}&digest={urllib.parse.quote(blob.digest)}"
        with blob.open() as body:
            self.request(
                "PUT", path, body, {"Content-Length": str(blob.size), "Content-Type": "application/octet-stream"}
            )

    def push_manifest(self, name, tag, data, media_type):
        """Uploads a manifest under a tag or digest."""
        self.request("PUT", f"/v2/{name}/manifests/{tag}", data, {"Content-Type": media_type})

    def push(self, name, tag, image):
        """Uploads an image."""
        for blob in image.blobs():
            self.push_blob(name, blob)
        self.push_manifest(name, tag, image.bytes(), image.media_type)

    def push_index(self, name, tag, images, docker=False, extra=()):
        """Uploads images and an index over them."""
        for image in images:
            self.push(name, digest(image.bytes()), image)
        self.push_manifest(name, tag, index(images, docker, extra), DOCKER_LIST if docker else OCI_INDEX)
