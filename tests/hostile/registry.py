"""A registry that lies, stalls and asks strange questions. The first part of a repository's name says how.

`registry.py ADDRESS FOREIGN_ADDRESS LOG`: the second address is "another host", which must never see a credential.
Every request becomes a JSON line in LOG: host, method, path, authorization, range.
"""

import base64
import gzip
import http.server
import json
import os
import sys
import threading
import time
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "images"))
from oci import OCI_INDEX, OCI_LAYER, Blob, Image, Layer, Tar, digest, index  # noqa: E402
from samples import PLAIN, busybox_tar  # noqa: E402

USER, PASSWORD, TOKEN = "alice", "open sesame", "token-of-alice"
ANONYMOUS = "token-of-nobody"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
HERE, FOREIGN, LOG = sys.argv[1], sys.argv[2], sys.argv[3]
BASE = busybox_tar().bytes()
LOG_LOCK = threading.Lock()


class Answer:
    """What one repository serves: its manifest, its blobs, and what is odd about the way it sends them."""

    def __init__(self, name):
        self.name = name
        # Each has a layer of its own, so that nothing cached answers for it.
        self.own = Layer(Tar().file("repository", name + "\n").file("filler", os.urandom(1 << 18)))
        self.image = Image([Layer(BASE), self.own], PLAIN)
        self.children = {}
        self.type = self.image.media_type
        self.swap = {}
        change = CHANGES.get(name.split("/")[0])
        if change:
            change(self)
        self.manifest = getattr(self, "manifest", None) or self.image.bytes()
        self.blobs = {blob.digest: blob.data for blob in self.image.blobs()}
        self.blobs.update(self.swap)

    def rebuild(self, layer):
        """The same image with another top layer."""
        self.own = layer
        self.image = Image([Layer(BASE), layer], PLAIN)

    def replace(self, blob, data):
        """Other bytes under a blob's digest."""
        self.swap[blob.digest] = data


def flipped(data):
    """The same length, one bit different."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1:]


def packed(answer, data, media_type=OCI_LAYER + "+gzip"):
    """A layer whose blob is exactly `data`; its digest is right."""
    layer = Layer(Tar().file("x", answer.name))
    layer.blob, layer.media_type = Blob(data), media_type
    answer.rebuild(layer)


def edit(answer, change):
    """Changes the manifest as a document."""
    change(answer.image.manifest)
    answer.manifest = json.dumps(answer.image.manifest).encode()


def bad_child(answer):
    """An index whose manifest is not the one it names."""
    real = answer.image.bytes()
    answer.manifest = index([answer.image])
    answer.type = OCI_INDEX
    answer.children[digest(real)] = real.replace(b'"schemaVersion": 2', b'"schemaVersion":  2')


def bad_manifest(answer):
    """Any digest is answered with the same manifest."""
    answer.any_digest = True


def bad_diff_id(answer):
    """A config that promises another content of the layer."""
    answer.rebuild(Layer(Tar().file("x", answer.name), diff_id="sha256:" + "1" * 64))


def few_diff_ids(answer):
    """A config with fewer diff ids than there are layers."""
    document = json.loads(answer.image.config.data)
    document["rootfs"]["diff_ids"].pop()
    blob = Blob(json.dumps(document).encode())
    answer.image.config = blob
    answer.image.manifest["config"].update(digest=blob.digest, size=blob.size)


def cut_gzip(answer):
    """A gzip stream without its end, under the right digest."""
    packed(answer, answer.own.blob.data[:-1000])


def wrong_crc(answer):
    """A gzip stream whose own checksum is wrong, under the right digest."""
    data = gzip.compress(Tar().file("x", answer.name).bytes(), mtime=0)
    packed(answer, data[:-8] + b"\0\0\0\0" + data[-4:])


def many_files(answer):
    """A layer of so many names that packing it takes tens of megabytes of memory."""
    tar = Tar().file("repository", answer.name + "\n")
    for number in range(100000):
        tar.file(f"many/{number // 1000}/{'name' * 60}-{number}", "")
    answer.rebuild(Layer(tar))


CHANGES = {
    "many-files": many_files,
    "bad-child": bad_child,
    "bad-manifest": bad_manifest,
    "bad-config": lambda a: a.replace(a.image.config, flipped(a.image.config.data)),
    "bad-layer": lambda a: a.replace(a.own.blob, flipped(a.own.blob.data)),
    "bad-diff-id": bad_diff_id,
    "few-diff-ids": few_diff_ids,
    "short-layer": lambda a: a.replace(a.own.blob, a.own.blob.data[:-1000]),
    "long-layer": lambda a: a.replace(a.own.blob, a.own.blob.data + b"more" * 1000),
    "garbage-layer": lambda a: packed(a, os.urandom(5000)),
    "garbage-after-magic": lambda a: packed(a, b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + os.urandom(5000)),
    "cut-gzip": cut_gzip,
    "wrong-crc": wrong_crc,
    "cut-zstd": lambda a: packed(a, Layer(Tar().file("x", os.urandom(9000)), "zstd").blob.data[:-100]),
    "evil-digest": lambda a: edit(a, lambda m: m["layers"][1].update(digest="sha256:../../../../../../../../tmp/evil")),
    "unknown-digest": lambda a: edit(a, lambda m: m["layers"][1].update(digest="md5:" + "0" * 32)),
    "negative-size": lambda a: edit(a, lambda m: m["layers"][1].update(size=-1)),
    "no-layers-field": lambda a: edit(a, lambda m: m.pop("layers")),
    "schema1": lambda a: edit(a, lambda m: m.update(schemaVersion=1)),
    "not-json": lambda a: setattr(a, "manifest", b"<html>sign in</html>"),
    "huge-manifest": lambda a: setattr(a, "manifest", b'{"schemaVersion": 2, "x": "' + b"x" * (80 << 20) + b'"}'),
}


class Server(http.server.ThreadingHTTPServer):
    """One listener; `foreign` tells which of the two it is."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address, foreign):
        host, port = address.split(":")
        self.foreign = foreign
        super().__init__((host, int(port)), Requests)


ANSWERS = {}
ANSWERS_LOCK = threading.Lock()
SEEN = {}


def answer_for(name):
    """The one answer of a repository, made when first asked for."""
    with ANSWERS_LOCK:
        if name not in ANSWERS:
            ANSWERS[name] = Answer(name)
        return ANSWERS[name]


class Requests(http.server.BaseHTTPRequestHandler):
    """The protocol, and the misbehaviour that is in how things are sent rather than in what is sent."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Requests are logged by `note` instead."""

    def note(self):
        """One JSON line per request."""
        line = {
            "host": "foreign" if self.server.foreign else "registry",
            "method": self.command,
            "path": self.path,
            "authorization": self.headers.get("Authorization"),
            "range": self.headers.get("Range"),
        }
        with LOG_LOCK, open(LOG, "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")

    def send(self, status, body=b"", headers=(), kind="application/json", length=None):
        """An answer with a body."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for key, value in headers:
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code, message, headers=()):
        """An error in the registry's form."""
        self.send(status, json.dumps({"errors": [{"code": code, "message": message}]}).encode(), headers)

    def do_HEAD(self):
        """As GET, without the body."""
        self.do_GET()

    def do_GET(self):
        """Every request there is."""
        self.note()
        try:
            self.route()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def route(self):
        """Which repository, and which part of it."""
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/v2/":
            return self.send(200, b"{}")
        if url.path == "/token":
            return self.token(urllib.parse.parse_qs(url.query))
        for part in ("manifests", "blobs"):
            head, mark, tail = url.path.partition(f"/{part}/")
            if mark and head.startswith("/v2/"):
                name = head[len("/v2/"):]
                if not self.allowed(name):
                    return None
                return getattr(self, part)(name, tail)
        return self.refuse(404, "NAME_UNKNOWN", "repository name not known")

    def token(self, query):
        """The token endpoint: of this registry, or of a host that has no business with our password."""
        scope = query.get("scope", [""])[0]
        if ":bearer-anonymous" in scope:
            return self.send(200, json.dumps({"token": ANONYMOUS}).encode())
        if self.headers.get("Authorization") == BASIC:
            return self.send(200, json.dumps({"access_token": TOKEN, "expires_in": 300}).encode())
        return self.refuse(401, "UNAUTHORIZED", "wrong user or password")

    def allowed(self, name):
        """Asks for credentials, where the repository does."""
        first, given = name.split("/")[0], self.headers.get("Authorization")
        if self.server.foreign:
            return True
        challenge = None
        if first == "unauthorized":
            return self.refuse(401, "UNAUTHORIZED", "no") or False
        if first == "denied":
            return self.refuse(403, "DENIED", "requested access to the resource is denied") or False
        if first in ("basic", "redirect-foreign") and given != BASIC:
            challenge = 'Basic realm="test"'
        if first.startswith("bearer") and given not in (f"Bearer {TOKEN}", f"Bearer {ANONYMOUS}"):
            challenge = self.bearer(f"http://{HERE}/token", name)
        if first == "realm-foreign":
            challenge = self.bearer(f"http://{FOREIGN}/token", name)
        if first == "realm-file":
            challenge = self.bearer("file:///etc/passwd", name)
        if first == "realm-garbage":
            challenge = 'Bearer realm="'
        if challenge is None:
            return True
        self.refuse(401, "UNAUTHORIZED", "authentication required", [("WWW-Authenticate", challenge)])
        return False

    @staticmethod
    def bearer(realm, name):
        """A Bearer challenge."""
        return f'Bearer realm="{realm}",service="test",scope="repository:{name}:pull"'

    def manifests(self, name, reference):
        """A manifest by tag or digest."""
        first = name.split("/")[0]
        if first == "stall-manifest":
            return self.stall()
        if first == "evil-message":
            return self.refuse(404, "MANIFEST_UNKNOWN", "\x1b[31mred\x1b[0m\nsecond line\r%s%n")
        if first == "error-500":
            return self.refuse(500, "UNKNOWN", "internal error")
        if first == "flaky" and self.first_time(self.path):
            return self.refuse(503, "UNAVAILABLE", "try again")
        # Lists the layers of a private image, and has none of them.
        answer = answer_for(name.replace("thief/", "basic/", 1) if first == "thief" else name)
        if reference.startswith("sha256:"):
            if getattr(answer, "any_digest", False) or digest(answer.manifest) == reference:
                return self.send(200, answer.manifest, kind=answer.type)
            if reference in answer.children:
                return self.send(200, answer.children[reference], kind=answer.image.media_type)
            return self.refuse(404, "MANIFEST_UNKNOWN", "manifest unknown")
        if reference != "latest":
            return self.refuse(404, "MANIFEST_UNKNOWN", "manifest unknown")
        return self.send(200, answer.manifest, [("Docker-Content-Digest", digest(answer.manifest))], answer.type)

    @staticmethod
    def first_time(key):
        """True once for each key."""
        with ANSWERS_LOCK:
            SEEN[key] = SEEN.get(key, 0) + 1
            return SEEN[key] == 1

    def blobs(self, name, wanted):
        """A blob, in whole or in the way this repository sends it."""
        first, answer = name.split("/")[0], answer_for(name)
        data = answer.blobs.get(wanted)
        if data is None:
            return self.refuse(404, "BLOB_UNKNOWN", "blob unknown to registry")
        own = wanted == answer.own.blob.digest
        if first == "redirect-foreign" and not self.server.foreign:
            return self.send(307, b"", [("Location", f"http://{FOREIGN}{self.path}")])
        if first == "redirect-loop" and own:
            return self.send(307, b"", [("Location", self.path)])
        if first == "redirect-file" and own:
            return self.send(307, b"", [("Location", "file:///etc/passwd")])
        if own and first in ("cut-layer", "stall-layer", "slow-layer"):
            return self.partly(data, first)
        if own and first == "flaky-layer" and self.first_time(self.path):
            return self.partly(data, "cut-layer")
        start = self.range_start()
        if start and first == "flaky-layer":
            more = [("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")]
            return self.send(206, data[start:], more, "application/octet-stream")
        return self.send(200, data, kind="application/octet-stream")

    def range_start(self):
        """Where a resumed download wants to go on."""
        text = self.headers.get("Range") or ""
        return int(text[len("bytes="):].split("-")[0]) if text.startswith("bytes=") else 0

    def partly(self, data, how):
        """Half of the bytes, and then nothing, or the end, or the rest drop by drop."""
        half = len(data) // 2
        self.send(200, data[:half], kind="application/octet-stream", length=len(data))
        self.wfile.flush()
        if how == "cut-layer":
            self.close_connection = True
            return
        if how == "stall-layer":
            self.stall()
            return
        for at in range(half, len(data), 256):
            time.sleep(0.1)
            self.wfile.write(data[at:at + 256])
            self.wfile.flush()

    def stall(self):
        """Says nothing until the other side gives up."""
        self.connection.settimeout(600)
        try:
            while self.connection.recv(4096):
                pass
        except OSError:
            pass
        self.close_connection = True


if __name__ == "__main__":
    threading.Thread(target=Server(FOREIGN, True).serve_forever, daemon=True).start()
    Server(HERE, False).serve_forever()
