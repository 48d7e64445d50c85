//! InfiniBand adapters of a node that is made up, in real root file systems.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]
mod common;

use common::*;
use pyxis_runtime::devices::{DevicesConfig, Wish};
use pyxis_runtime::plan::Plan;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Two adapters of Mellanox, the first on the bus being the second by name, and one of Amazon.
fn node(clean: &Clean, state: &str) -> PathBuf {
    let host = clean.path("host");
    let file = |path: &str, text: &str| {
        let path = host.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let device = |name: &str, minor: u32| {
        let path = host.join("dev/infiniband").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mode = Mode::from_raw_mode(0o666);
        mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(231, minor)).unwrap();
    };
    for (number, (driver, bus, adapter)) in [
        ("mlx5_core", "0000:3b:00.0", "mlx5_1"),
        ("mlx5_core", "0000:5e:00.0", "mlx5_0"),
        ("efa", "0000:00:1e.0", "rdmap0"),
    ]
    .into_iter()
    .enumerate()
    {
        let function = format!("sys/devices/pci0000:00/{bus}");
        let minor = u32::try_from(number).unwrap();
        for (class, name, minor) in [
            ("infiniband_verbs", format!("uverbs{number}"), 192 + minor),
            ("infiniband_mad", format!("umad{number}"), minor),
            ("infiniband_mad", format!("issm{number}"), 64 + minor),
            ("infiniband", adapter.to_owned(), 0),
        ] {
            let path = format!("{function}/{class}/{name}");
            fs::create_dir_all(host.join("sys/class").join(class)).unwrap();
            if class == "infiniband" {
                file(&format!("{path}/ports/1/state"), state);
            } else {
                file(&format!("{path}/ibdev"), &format!("{adapter}\n"));
                file(&format!("{path}/dev"), &format!("231:{minor}\n"));
                device(&name, minor);
            }
            let link = host.join("sys/class").join(class).join(&name);
            symlink(format!("../../devices/pci0000:00/{bus}/{class}/{name}"), link).unwrap();
        }
        let drivers = host.join("sys/bus/pci/drivers").join(driver);
        fs::create_dir_all(&drivers).unwrap();
        symlink(format!("../../../../devices/pci0000:00/{bus}"), drivers.join(bus)).unwrap();
    }
    file("sys/class/infiniband_verbs/abi_version", "6\n");
    file("sys/class/infiniband_mad/abi_version", "5\n");
    file("sys/class/misc/rdma_cm/dev", "231:255\n");
    device("rdma_cm", 255);
    host
}

fn asks(host: &Path, visible: Option<&str>) -> Plan {
    let mut plan = plan();
    plan.mounts = vec![
        proc_mount(),
        system(host.join("sys").to_str().unwrap(), "/sys", rbind()),
    ];
    plan.restrict_dev = true;
    let job = visible.map(|visible| ("MELLANOX_VISIBLE_DEVICES".to_owned(), visible.to_owned()));
    plan.devices = Some(Wish {
        site: DevicesConfig {
            root: host.into(),
            ..DevicesConfig::default()
        },
        job: job.into_iter().collect(),
        ..Wish::default()
    });
    plan
}

/// What programs find.
const LOOK: &str = "cd /sys/class; ls infiniband infiniband_verbs infiniband_mad | xargs; ls /dev/infiniband 2>/dev/null | xargs; \
                    for name in infiniband_verbs/uverbs*; do cat $name/ibdev; done; cat infiniband_*/abi_version | xargs";

#[test]
fn chosen_adapters_are_all_that_there_is() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let host = node(&clean, "4: ACTIVE\n");
    let everything = "infiniband: mlx5_0 mlx5_1 rdmap0 infiniband_mad: abi_version issm0 issm1 issm2 umad0 umad1 umad2 \
                      infiniband_verbs: abi_version uverbs0 uverbs1 uverbs2";
    for (visible, sees) in [
        (
            Some("0"),
            "infiniband: mlx5_1 infiniband_mad: abi_version issm0 umad0 infiniband_verbs: abi_version uverbs0\n\
             issm0 rdma_cm umad0 uverbs0\nmlx5_1\n5 6\n"
                .to_owned(),
        ),
        (
            Some("1"),
            "infiniband: mlx5_0 infiniband_mad: abi_version issm1 umad1 infiniband_verbs: abi_version uverbs1\n\
             issm1 rdma_cm umad1 uverbs1\nmlx5_0\n5 6\n"
                .to_owned(),
        ),
        (
            Some("all"),
            format!(
                "{everything}\nissm0 issm1 issm2 rdma_cm umad0 umad1 umad2 uverbs0 uverbs1 uverbs2\nmlx5_1\nmlx5_0\nrdmap0\n5 6\n"
            ),
        ),
        (Some("void"), format!("{everything}\n\nmlx5_1\nmlx5_0\nrdmap0\n5 6\n")),
        (None, format!("{everything}\n\nmlx5_1\nmlx5_0\nrdmap0\n5 6\n")),
    ] {
        let plan = asks(&host, visible);
        let (made, notes) = build(&plan, &packs).unwrap();
        assert_eq!(notes, Vec::<String>::new(), "{visible:?}");
        let found = run(&made, &plan, LOOK).output;
        let lines = |text: &str| {
            let mut first: Vec<String> = text.lines().map(str::to_owned).collect();
            // ls takes its arguments in any order.
            let mut groups: Vec<String> = first[0]
                .replace(" infiniband", "\ninfiniband")
                .lines()
                .map(str::to_owned)
                .collect();
            groups.sort();
            first[0] = groups.join(" ");
            first
        };
        assert_eq!(lines(&found), lines(&sees), "{visible:?}");
    }
}

#[test]
fn unchosen_nodes_of_a_shared_dev_are_hidden() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let host = node(&clean, "4: ACTIVE\n");
    let mut plan = asks(&host, Some("1"));
    plan.restrict_dev = false;
    plan.mounts
        .push(system(host.join("dev").to_str().unwrap(), "/dev", rbind()));
    let script = "for name in uverbs0 uverbs1 uverbs2 umad2 rdma_cm; do \
                  test -c /dev/infiniband/$name && echo $name; done";
    assert_eq!(output(&plan, &packs, script), "uverbs1\nrdma_cm\n");
    // The host has what it had.
    assert_eq!(fs::read_dir(host.join("dev/infiniband")).unwrap().count(), 10);
}

#[test]
fn whoever_would_use_tcp_is_told() {
    let clean = Clean::start();
    let packs = [clean.base()];
    let host = node(&clean, "1: DOWN\n");
    let notes = |plan: &Plan| build(plan, &packs).unwrap().1;
    assert_eq!(
        notes(&asks(&host, Some("0,1"))),
        ["no port of mlx5_1, mlx5_0 is active: programs may use TCP in place of InfiniBand"]
    );
    let error = fails(&asks(&host, Some("2")), &packs);
    assert!(
        error.contains("unknown device 2: this node has 0 (mlx5_1), 1 (mlx5_0)"),
        "{error}"
    );
    let none = clean.path("none");
    fs::create_dir_all(none.join("sys")).unwrap();
    let notes = notes(&asks(&none, Some("all")));
    assert!(
        notes.len() == 1 && notes[0].ends_with("programs will use TCP"),
        "{notes:?}"
    );
}
