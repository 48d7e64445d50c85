//! The finder for AMD's GPUs on a stand-in host: device nodes, libraries and the loader's cache are real, the driver is not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]
mod common;

use common::*;
use pyxis_runtime::Result;
use pyxis_runtime::devices::{DevicesConfig, Edits, HostFiles, Wish, find};
use pyxis_runtime::sys::process::Exit;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A host with two GPUs (and a processor, which the kernel counts with them), ROCm in AMD's place, and a library of it where a
/// distribution has it.
fn host(clean: &Clean) -> PathBuf {
    let host = clean.path("host");
    let topology = host.join("sys/class/kfd/kfd/topology/nodes");
    for (node, render) in [(0, 0), (1, 128), (2, 129)] {
        let directory = topology.join(node.to_string());
        fs::create_dir_all(&directory).unwrap();
        let text = format!("cpu_cores_count 0\ndrm_render_minor {render}\n");
        fs::write(directory.join("properties"), text).unwrap();
    }
    let node = |name: &str, major, minor| {
        let path = host.join("dev").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mode = Mode::from_raw_mode(0o666);
        mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(major, minor)).unwrap();
    };
    node("kfd", 510, 0);
    for (card, render) in [(0, 128), (1, 129)] {
        node(&format!("dri/card{card}"), 226, card);
        node(&format!("dri/renderD{render}"), 226, render);
        let drm = host.join(format!("sys/class/drm/renderD{render}/device/drm"));
        fs::create_dir_all(drm.join(format!("card{card}"))).unwrap();
        fs::create_dir_all(drm.join(format!("renderD{render}"))).unwrap();
    }
    library(
        clean,
        &host.join("opt/rocm-6.1.0/lib/libamdhip64.so.6.1"),
        "libamdhip64.so.6",
    );
    library(clean, &host.join("usr/lib/libnuma.so.1.0.0"), "libnuma.so.1");
    library(clean, &host.join("usr/lib/libother.so.1.0.0"), "libother.so.1");
    fs::create_dir_all(host.join("etc")).unwrap();
    fs::write(host.join("etc/ld.so.conf"), "/opt/rocm-6.1.0/lib\n/usr/lib\n").unwrap();
    assert!(
        Command::new("/sbin/ldconfig")
            .arg("-r")
            .arg(&host)
            .status()
            .unwrap()
            .success()
    );
    fs::create_dir_all(host.join("opt/rocm/bin")).unwrap();
    fs::write(host.join("opt/rocm/bin/rocminfo"), "#!/bin/sh\necho agents\n").unwrap();
    Command::new("chmod")
        .arg("755")
        .arg(host.join("opt/rocm/bin/rocminfo"))
        .status()
        .unwrap();
    host
}

fn library(clean: &Clean, file: &Path, soname: &str) {
    let source = clean.path("library.c");
    fs::write(&source, "").unwrap();
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let made = Command::new("cc")
        .args(["-shared", "-nostdlib", "-o"])
        .arg(file)
        .arg(format!("-Wl,-soname,{soname}"))
        .arg(source)
        .status();
    assert!(made.unwrap().success());
}

fn wish(host: &Path) -> Wish {
    Wish {
        site: DevicesConfig {
            root: host.into(),
            ..DevicesConfig::default()
        },
        rocm: true,
        ..Wish::default()
    }
}

fn found(wish: &Wish) -> Result<Edits> {
    find(wish, &[], &HostFiles::open(&wish.site.root, &user())?)
}

fn nodes(edits: &Edits) -> Vec<String> {
    let paths = edits.nodes.iter().map(|node| node.target.display().to_string());
    paths.collect()
}

#[test]
fn the_gpus_of_the_job_and_no_others() {
    let clean = Clean::start();
    let host = host(&clean);
    let first = ["/dev/kfd", "/dev/dri/renderD128", "/dev/dri/card0"];
    let second = ["/dev/dri/renderD129", "/dev/dri/card1"];
    let all = found(&wish(&host)).unwrap();
    assert_eq!(nodes(&all), [&first[..], &second[..]].concat());
    assert!(all.hidden.is_empty());
    // By the number of its render node, or of its card.
    for granted in [128, 0] {
        let edits = found(&Wish {
            granted: Some(vec![granted]),
            ..wish(&host)
        })
        .unwrap();
        assert_eq!(nodes(&edits), first, "{granted}");
        assert_eq!(edits.hidden, second.map(PathBuf::from), "{granted}");
    }
    let nobody = Wish {
        rocm: false,
        ..wish(&host)
    };
    assert_eq!(found(&nobody).unwrap(), Edits::default());
}

#[test]
fn without_the_driver_it_is_an_error_without_gpus_a_warning() {
    let clean = Clean::start();
    let host = host(&clean);
    fs::remove_dir_all(host.join("sys/class/kfd")).unwrap();
    assert!(found(&wish(&host)).unwrap().warnings[0].contains("names no GPU"));
    fs::remove_file(host.join("dev/kfd")).unwrap();
    let text = found(&wish(&host)).unwrap_err().to_string();
    assert!(
        text.contains("/dev/kfd does not exist") && text.contains("amdgpu"),
        "{text}"
    );
}

#[test]
fn rocm_is_the_images_own_where_it_has_it() {
    let clean = Clean::start();
    let host = host(&clean);
    let mut plan = plan();
    plan.restrict_dev = true;
    plan.mounts = vec![proc_mount()];
    plan.devices = Some(Wish {
        granted: Some(vec![1]),
        ..wish(&host)
    });
    let bare = clean.pack("bare", fill_base);
    let made = build(&plan, &[bare]).unwrap().0;
    let ran = run(
        &made,
        &plan,
        "ls /dev/kfd /dev/dri/*; cd /usr/lib; ls libamdhip64.so.6* libnuma.so.1* libother* 2>/dev/null; /usr/bin/rocminfo",
    );
    assert_eq!(
        ran.output,
        "/dev/dri/card1\n/dev/dri/renderD129\n/dev/kfd\nlibamdhip64.so.6\nlibamdhip64.so.6.1\nlibnuma.so.1\nlibnuma.so.1.0.0\nagents\n"
    );
    drop(made);
    let own = clean.pack("own", |tree| {
        fill_base(tree);
        fs::create_dir_all(tree.join("usr/lib")).unwrap();
        fs::write(tree.join("usr/lib/libnuma.so.1"), "the image's\n").unwrap();
    });
    let made = build(&plan, &[own]).unwrap().0;
    let ran = run(&made, &plan, "cd /usr/lib; ls libamdhip64.so.6; cat libnuma.so.1");
    assert_eq!(ran.exit, Exit::Code(0), "{}", ran.output);
    assert_eq!(ran.output, "libamdhip64.so.6\nthe image's\n");
}
