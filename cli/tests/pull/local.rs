//! Images in directories and archives, as root and as a user without rights.
#![forbid(unsafe_code)]

use super::{Place, fail, files, packs, succeed};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/local/images.py");

/// The images that `tests/local/images.py` makes.
fn images(place: &Place) -> PathBuf {
    let directory = place.path("images");
    fs::create_dir(&directory).unwrap();
    let mut python = Command::new("/usr/bin/python3");
    succeed(python.arg("-B").arg(SCRIPT).arg(&directory));
    directory
}

/// The value that names an image by what its file is called.
fn source(path: &std::path::Path) -> String {
    let name = path.file_name().unwrap().to_str().unwrap();
    let form = match (name.starts_with("docker") || name.starts_with("bomb"), path.is_dir()) {
        (true, _) => "docker-archive",
        (false, true) => "oci",
        (false, false) => "oci-archive",
    };
    format!("{form}:{}", path.display())
}

#[test]
fn evil_images_are_refused_in_one_line_and_leave_packs_of_what_was_right() {
    let place = Place::new();
    let images = images(&place);
    let mut count = 0;
    for entry in fs::read_dir(images.join("bad")).unwrap() {
        let source = source(&entry.unwrap().path());
        for mut command in [place.root(), place.nobody()] {
            let (line, printed) = fail(command.arg("pull").arg(&source));
            assert!(
                line.contains(&format!("failed to import docker image: {source}")),
                "{line}"
            );
            assert!(printed.is_empty(), "{printed}");
            count += 1;
        }
    }
    assert!(count > 80, "{count}");
    // The right layer of a wrong image may stay: its name is its digest.
    for (path, _) in files(&place.path("store")) {
        let path = path.to_str().unwrap();
        assert!(
            ["packs-1/", "grants/", "/lock"]
                .iter()
                .any(|known| path.contains(known)),
            "{path}"
        );
    }
}

#[test]
fn one_image_in_several_forms_is_imported_once() {
    let place = Place::new();
    let images = images(&place);
    let pull = |name: &str| {
        let value = format!(
            "{}{}",
            source(&images.join(name.split(':').next().unwrap())),
            match name.split_once(':') {
                Some((_, tag)) => format!(":{tag}"),
                None => String::new(),
            }
        );
        succeed(place.root().arg("pull").arg(value))
    };
    for (name, new) in [
        ("two-images:one", 2),
        ("two-images.tar:one", 0),
        ("machines", 0),
        ("linked", 0),
        ("docker.tar", 2),
        ("docker-new.tar", 0),
        ("docker-old.tar", 0),
        ("docker.tar.gz", 0),
        ("docker.tar.zst", 0),
        ("docker-two.tar:library/other:1", 1),
        ("docker-packed.tar", 1),
    ] {
        let text = pull(name);
        assert!(
            text.contains(&format!("(2 layers, {new} downloaded)")),
            "{name}: {text}"
        );
    }
    assert_eq!(packs(&place.path("store")), 6);
}

#[test]
fn a_link_out_of_a_layout_is_not_followed_by_root() {
    let place = Place::new();
    let images = images(&place);
    let layout = images.join("machines");
    let secret = place.path("secret.json");
    fs::copy(layout.join("index.json"), &secret).unwrap();
    fs::remove_file(layout.join("index.json")).unwrap();
    symlink(&secret, layout.join("index.json")).unwrap();
    let (line, _) = fail(place.root().arg("pull").arg(format!("oci:{}", layout.display())));
    assert!(line.contains("leads out of the directory"), "{line}");
    fs::remove_file(layout.join("index.json")).unwrap();
    fs::rename(&secret, layout.join("index.json")).unwrap();
    succeed(place.root().arg("pull").arg(format!("oci:{}", layout.display())));
}

/// A client: a program that writes what `docker save` would.
fn client(place: &Place, name: &str, script: &str) -> PathBuf {
    let path = place.path("bin");
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    let config = format!(
        "[worker]\nuser = \"nobody\"\n[images]\nclient_path = \"/nonexistent:{}\"\n",
        path.display()
    );
    fs::write(place.path("pyxis.toml"), config).unwrap();
    path.join(name)
}

#[test]
fn what_a_client_saves_is_imported() {
    let place = Place::new();
    let images = images(&place);
    let cat = |name: &str| format!("[ \"$1\" = save ] && exec /bin/cat {}", images.join(name).display());
    client(&place, "docker", &cat("docker-two.tar"));
    client(&place, "podman", &cat("docker.tar"));
    let text = succeed(place.root().arg("pull").arg("dockerd://other:1"));
    assert!(
        text.contains("dockerd://other:1 sha256:") && text.contains("(2 layers, 2 downloaded)"),
        "{text}"
    );
    let text = succeed(place.root().arg("pull").arg("podman://whatever"));
    assert!(text.contains("(2 layers, 1 downloaded)"), "{text}");
    let (line, _) = fail(place.root().arg("pull").arg("dockerd://third"));
    assert!(
        line.contains("no such image, only docker.io/library/other:1, plain:1"),
        "{line}"
    );
}

#[test]
fn a_clients_failure_is_told_in_its_words() {
    let place = Place::new();
    for (script, why) in [
        (
            "echo noise >&2; echo Error: no such image: x >&2; exit 125",
            "exit code 125: Error: no such image: x",
        ),
        ("kill -9 $$", "signal 9: it said nothing"),
        (
            "head -c 100000 /dev/zero; echo daemon gone >&2; exit 1",
            "exit code 1: daemon gone",
        ),
        ("echo no archive", "neither gzip, zstd nor tar"),
        ("true", "the archive is empty"),
        ("head -c 100000 /dev/zero", "has no manifest.json"),
    ] {
        let path = client(&place, "docker", script);
        let (line, _) = fail(place.root().arg("pull").arg("dockerd://x"));
        assert!(line.contains(why), "{line}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let (line, _) = fail(place.root().arg("pull").arg("dockerd://x"));
        assert!(line.contains("must belong to root"), "{line}");
    }
    let (line, _) = fail(place.root().arg("pull").arg("podman://x"));
    assert!(line.contains("there is no podman on this node"), "{line}");
}
