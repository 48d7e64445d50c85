//! The command against the real docker-registry, as root and as an unprivileged user. Needs root, docker-registry and
//! skopeo.
#![forbid(unsafe_code)]
// The exemption of tests in clippy.toml does not reach the functions that tests share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod image;
mod local;
mod proxy;
#[path = "../../../runtime/tests/registry/server.rs"]
mod server;

use image::{Layer, push};
use proxy::{Hold, Proxy};
use server::Registry;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use tempfile::TempDir;

/// The built command.
const PYXIS: &str = env!("CARGO_BIN_EXE_pyxis");
/// A user without rights.
const NOBODY: u32 = 65534;

/// Where a test has its files; anybody may look in.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        // The service user that every machine has.
        let config = "[store]\ncompression = \"none\"\n[worker]\nuser = \"nobody\"\n";
        fs::write(directory.path().join("pyxis.toml"), config).unwrap();
        Place(directory)
    }

    fn without_retries() -> Self {
        let place = Place::new();
        let mut config = OpenOptions::new().append(true).open(place.path("pyxis.toml")).unwrap();
        config.write_all(b"[registry]\nretries = 0\n").unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The command as root, with the store of this place and no environment.
    fn root(&self) -> Command {
        let mut command = Command::new(PYXIS);
        self.options(command.env_clear()).arg("--store").arg(self.path("store"));
        command
    }

    /// The command as a user without rights, who has a copy of it and a home directory.
    fn nobody(&self) -> Command {
        let (program, home) = (self.path("pyxis"), self.path("home"));
        if !home.exists() {
            fs::copy(PYXIS, &program).unwrap();
            fs::create_dir(&home).unwrap();
            chown(&home, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let mut command = Command::new("setpriv");
        command
            .env_clear()
            .env("HOME", home)
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
            .arg(program);
        self.options(&mut command);
        command
    }

    fn options<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command.arg("--config").arg(self.path("pyxis.toml"))
    }
}

/// The words of a command that must succeed.
fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(status.success() && stderr.is_empty(), "{status}: {stderr}");
    String::from_utf8(stdout).unwrap()
}

/// The one line of a command that must fail, and what it printed besides.
fn fail(command: &mut Command) -> (String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    (stderr.trim_end().to_owned(), stdout)
}

/// Every file below a directory with its content.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    found
}

fn packs(store: &Path) -> usize {
    let is_pack = |path: &PathBuf| path.extension() == Some(OsStr::new("sqsh"));
    files(store).keys().filter(|path| is_pack(path)).count()
}

/// Bytes that do not compress (xorshift).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).collect()
}

#[test]
fn eight_pulls_at_once_get_each_layer_once() {
    const MANIFEST: &str = "/v2/library/test/manifests/1";
    let (place, registry) = (Place::new(), Registry::start("", ""));
    let layers: Vec<_> = (0..5)
        .map(|number| Layer::new(&format!("file{number}"), &noise(100_000 + number)))
        .collect();
    push(&registry, "library/test:1", &layers);
    // No layer comes before all eight have asked for the image.
    let hold = Hold::Blobs {
        until: MANIFEST,
        times: 8,
    };
    let proxy = Proxy::start(&registry.address, hold);
    let pulls: Vec<_> = (0..8)
        .map(|_| {
            let image = format!("docker://{}#library/test:1", proxy.address);
            let mut command = place.root();
            command.args(["pull", "--quiet", &image]).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    for pull in pulls {
        let Output { status, stderr, .. } = pull.wait_with_output().unwrap();
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    }
    assert_eq!(proxy.gets(MANIFEST), 8);
    let gets: Vec<_> = layers.iter().map(|layer| proxy.gets(&layer.page())).collect();
    assert_eq!(gets, [1; 5]);
    assert_eq!(packs(&place.path("store")), 5);
}

/// One download has at most 48 layers. A layer that comes twice is there once.
#[test]
fn more_layers_than_one_download_has() {
    let (place, registry) = (Place::new(), Registry::start("", ""));
    let mut layers: Vec<_> = (0..60)
        .map(|number| Layer::new(&format!("file{number}"), &[number]))
        .collect();
    layers.push(layers[3].clone());
    push(&registry, "library/test:1", &layers);
    let proxy = Proxy::start(&registry.address, Hold::Nothing);
    let image = format!("docker://{}#library/test:1", proxy.address);
    let said = succeed(place.root().args(["pull", &image]));
    assert!(said.ends_with("(60 layers, 60 downloaded)\n"), "{said}");
    assert_eq!(packs(&place.path("store")), 60);
    assert!(layers.iter().all(|layer| proxy.gets(&layer.page()) == 1));
    let said = succeed(place.root().args(["pull", &image]));
    assert!(said.ends_with("(60 layers, 0 downloaded)\n"), "{said}");
    assert!(layers.iter().all(|layer| proxy.gets(&layer.page()) == 1));
}

/// The blob is small, the pack is not.
#[test]
fn the_disk_fills_up_in_the_middle() {
    let (place, registry) = (Place::new(), Registry::start("", ""));
    let content = b"a line that is there again and again\n".repeat(1 << 20);
    push(&registry, "library/test:1", &[Layer::new("file", &content)]);
    let (store, image) = (
        place.path("store"),
        format!("docker://{}#library/test:1", registry.address),
    );
    fs::create_dir(&store).unwrap();
    // The mount goes away with its namespace.
    let script = r#"store=$1; shift; mount -t tmpfs -o size=8m,mode=0700 tmpfs "$store" || exit
        "$@"; code=$?; find "$store" -type f; df --output=used "$store" | tail -n 1; exit $code"#;
    let pull = place.root();
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(&store)
        .arg(pull.get_program())
        .args(pull.get_args())
        .args(["pull", &image]);
    let (error, left) = fail(&mut command);
    let store = store.display();
    let start = format!("pyxis: failed to import docker image: {image}: layer ");
    let end = format!(": write the pack: the image store {store} is full: free some space or set store.path");
    assert!(error.starts_with(&start) && error.ends_with(&end), "{error}");
    assert_eq!(
        left.split_whitespace().collect::<Vec<_>>(),
        [&format!("{store}/lock"), "0"]
    );
}

#[test]
fn a_killed_pull_leaves_the_store_as_it_was() {
    let (place, registry) = (Place::new(), Registry::start("", ""));
    push(&registry, "library/test:1", &[Layer::new("file", b"small")]);
    let big = Layer::new("file", &noise(4 << 20));
    push(&registry, "library/test:2", std::slice::from_ref(&big));
    let proxy = Proxy::start(&registry.address, Hold::Nothing);
    let image = |tag: u32| format!("docker://{}#library/test:{tag}", proxy.address);
    succeed(place.root().args(["pull", &image(1)]));
    let before = files(&place.path("store"));
    proxy.hold(Hold::After(1 << 20));
    let mut pull = place.root().args(["pull", "--quiet", &image(2)]).spawn().unwrap();
    proxy.wait_until_stuck();
    pull.kill().unwrap();
    pull.wait().unwrap();
    // Its workers went with it.
    proxy.wait_until_left();
    assert!(files(&place.path("store")) == before);
    // And no lock stays.
    proxy.hold(Hold::Nothing);
    let said = succeed(place.root().args(["pull", &image(2)]));
    assert!(said.ends_with("(1 layers, 1 downloaded)\n"), "{said}");
    assert_eq!(proxy.gets(&big.page()), 2);
}

#[test]
fn images_lists_what_was_pulled() {
    let (place, registry) = (Place::new(), Registry::start("", ""));
    let (one, two) = (Layer::new("one", b"1"), Layer::new("two", &noise(3 << 20)));
    push(&registry, "library/test:1", &[one.clone(), two.clone()]);
    // The same image, and one of layers that are there: nothing is left to download.
    push(&registry, "library/test:2", &[one.clone(), two]);
    push(&registry, "library/test:3", &[one]);
    for command in [Place::root, Place::nobody] {
        let command = || command(&place);
        let empty = "IMAGE  MANIFEST      LAYERS        SIZE\n";
        assert_eq!(succeed(command().arg("images")), empty);
        for tag in 1..=3 {
            let image = format!("docker://{}#library/test:{tag}", registry.address);
            succeed(command().args(["pull", &image]));
        }
        let table = succeed(command().arg("images"));
        let rows: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        let name = |tag: u32| format!("{}#library/test:{tag}", registry.address);
        assert_eq!(rows.len(), 4, "{table}");
        for (row, tag, layers, size) in [(1, 1, "2", "3.0"), (2, 2, "2", "3.0"), (3, 3, "1", "0.0")] {
            assert_eq!(rows[row][0], name(tag), "{table}");
            assert_eq!(rows[row][2..], [layers, size, "MiB"], "{table}");
        }
        let json = succeed(command().args(["images", "--json"]));
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json.as_array().unwrap().len(), 3);
        assert_eq!(json[0]["reference"], name(1));
        assert_eq!(json[0]["manifest"], json[1]["manifest"]);
        assert_eq!(
            (&json[0]["complete"], json[0]["layers"].as_array().unwrap().len()),
            (&true.into(), 2)
        );
        assert!(json[0]["size"].as_u64().unwrap() > 3 << 20);
    }
    // Each in his own store: the user's is where his data is.
    assert_eq!(packs(&place.path("store")), 2);
    assert_eq!(packs(&place.path("home/.local/share/pyxis")), 2);
}

#[test]
fn a_configuration_with_an_error_stops_everything() {
    let place = Place::new();
    let config = place.path("pyxis.toml");
    let name = config.display();
    for (text, error) in [
        (
            "[store]\n\ncolour = 1\n",
            format!("{name}, line 3: unknown field `colour`"),
        ),
        (
            "[store]\nlevel = 99\n",
            format!("{name}: store.level = 99 is out of range"),
        ),
        (
            "[worker]\npath = \"worker\"\n",
            format!("{name}: worker.path = \"worker\" is not an absolute path"),
        ),
    ] {
        fs::write(&config, text).unwrap();
        for words in [&["images"][..], &["pull", "docker://127.0.0.1:1#a/b:1"]] {
            let (line, stdout) = fail(place.root().args(words));
            assert!(line.starts_with(&format!("pyxis: {error}")), "{line}");
            assert_eq!(stdout, "");
        }
    }
    assert!(!place.path("store").exists());
    fs::remove_file(&config).unwrap();
    let (line, _) = fail(place.root().arg("images"));
    assert_eq!(line, format!("pyxis: --config: {name} does not exist"));
}

/// Who pulls for himself says how he reaches registries.
#[test]
fn proxy_variables_count() {
    let place = Place::without_retries();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = thread::spawn(move || {
        let mut line = String::new();
        let (client, _) = listener.accept().unwrap();
        BufReader::new(client).read_line(&mut line).unwrap();
        line
    });
    let mut command = place.root();
    command.env("https_proxy", format!("http://{address}"));
    fail(command.args(["pull", "docker://registry.invalid#a/b:1"]));
    // Were nothing asked, the other side would wait for ever.
    drop(TcpStream::connect(address));
    assert!(asked.join().unwrap().starts_with("CONNECT registry.invalid:443 "));
}

#[test]
fn variables_that_are_not_text() {
    let place = Place::new();
    let mut config = OpenOptions::new().append(true).open(place.path("pyxis.toml")).unwrap();
    config.write_all(b"[registry]\nretries = 0\n").unwrap();
    let (line, _) = fail(
        place
            .root()
            .env("LATIN", OsStr::from_bytes(b"\xe9"))
            .args(["pull", "docker://127.0.0.1:1#a/b:1"]),
    );
    assert!(line.starts_with("pyxis: failed to import docker image"), "{line}");
}
