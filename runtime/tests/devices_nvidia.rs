//! The finder for NVIDIA on stand-in hosts: device nodes, files of the driver and libraries are real, only the driver is not.
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
use pyxis_runtime::devices::{Bits, DevicesConfig, Edits, HostFiles, Wish, find};
use pyxis_runtime::mount::MountSource;
use pyxis_runtime::plan::Plan;
use pyxis_runtime::sys::process::{self, Exit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

const VERSION: &str = "550.54.15";
/// Makes a host.
fn host(clean: &Clean, name: &str, words: &[&str]) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cluster/gpus");
    let path = clean.path(name);
    let made = Command::new(script).arg(&path).args(words).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    path
}

fn wish(host: &Path, image: &[&str]) -> Wish {
    Wish {
        site: DevicesConfig {
            root: host.into(),
            ..DevicesConfig::default()
        },
        image: image.iter().map(|entry| (*entry).to_owned()).collect(),
        ..Wish::default()
    }
}

fn found(wish: &Wish) -> Result<Edits> {
    find(wish, &[], &HostFiles::open(&wish.site.root, &user())?)
}

fn error(host: &Path, image: &[&str]) -> String {
    found(&wish(host, image)).unwrap_err().to_string()
}

fn nodes(edits: &Edits) -> Vec<String> {
    edits
        .nodes
        .iter()
        .map(|node| node.target.display().to_string())
        .collect()
}

fn sonames(edits: &Edits) -> Vec<&str> {
    edits.libraries.iter().map(|library| library.soname.as_str()).collect()
}

fn targets(edits: &Edits) -> Vec<String> {
    edits
        .mounts
        .iter()
        .map(|mount| mount.target.display().to_string())
        .collect()
}

/// What is mounted as the directory of the multi-process service when the image has this variable, and when the job has it.
fn sources_of_mps(variable: &str, host: &Path) -> [MountSource; 2] {
    let asked = ["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute"];
    let of_image = wish(host, &[asked[0], asked[1], variable]);
    let mut of_job = wish(host, &asked);
    let (name, value) = variable.split_once('=').unwrap();
    of_job.job.insert(name.to_owned(), value.to_owned());
    [of_image, of_job].map(|wish| found(&wish).unwrap().user_mounts.remove(0).source)
}

#[test]
fn what_each_capability_brings() {
    let clean = Clean::start();
    let host = host(&clean, "host", &["2"]);
    let of = |capabilities: &str| {
        let capabilities = format!("NVIDIA_DRIVER_CAPABILITIES={capabilities}");
        found(&wish(&host, &["NVIDIA_VISIBLE_DEVICES=all", &capabilities])).unwrap()
    };
    let utility = of("");
    assert_eq!(nodes(&utility), ["/dev/nvidiactl", "/dev/nvidia0", "/dev/nvidia1"]);
    assert_eq!(sonames(&utility), ["libnvidia-cfg.so.1", "libnvidia-ml.so.1"]);
    let of_utility = [
        "/usr/bin/nvidia-smi",
        "/usr/bin/nvidia-debugdump",
        "/usr/bin/nvidia-persistenced",
        "/lib/firmware/nvidia/550.54.15/gsp_ga10x.bin",
        "/run/nvidia-persistenced/socket",
    ];
    assert_eq!(targets(&utility), of_utility);
    // A socket takes messages, so it is not read-only; all else is.
    for mount in &utility.mounts {
        assert_eq!(mount.options.readonly, !mount.target.ends_with("socket"), "{mount:?}");
        assert!(mount.options.nosuid && mount.options.nodev, "{mount:?}");
    }
    assert!(utility.user_mounts.is_empty() && utility.hidden.is_empty() && utility.warnings.is_empty());
    let params = &utility.files[0];
    assert_eq!(params.path, Path::new("/proc/driver/nvidia/params"));
    assert!(String::from_utf8_lossy(&params.bytes).contains("ModifyDeviceFiles: 0\n"));

    let compute = of("compute");
    for node in [
        "nvidia-uvm",
        "nvidia-uvm-tools",
        "gdrdrv",
        "nvidia-caps-imex-channels/channel0",
    ] {
        assert!(nodes(&compute).contains(&format!("/dev/{node}")), "{node}");
    }
    assert!(!nodes(&compute).contains(&"/dev/nvidia-modeset".to_owned()));
    let cuda = compute
        .libraries
        .iter()
        .find(|library| library.soname == "libcuda.so.1")
        .unwrap();
    assert_eq!(
        cuda.source.file_name().unwrap().to_str().unwrap(),
        format!("libcuda.so.{VERSION}")
    );
    assert_eq!(
        (cuda.links.as_slice(), cuda.bits),
        (&["libcuda.so".to_owned()][..], Bits::B64)
    );
    let compiler = format!("libnvidia-compiler.so.{VERSION}");
    assert!(sonames(&compute).contains(&compiler.as_str()));
    assert!(targets(&compute).contains(&"/etc/OpenCL/vendors/nvidia.icd".to_owned()));
    assert!(targets(&compute).contains(&"/usr/bin/nvidia-cuda-mps-server".to_owned()));
    assert!(!targets(&compute).contains(&"/usr/bin/nvidia-smi".to_owned()));
    assert_eq!(
        compute.user_mounts[0].source,
        MountSource::Path("/tmp/nvidia-mps".into())
    );
    assert_eq!(
        sources_of_mps("CUDA_MPS_PIPE_DIRECTORY=/home/alice", &host),
        [
            MountSource::Path("/tmp/nvidia-mps".into()),
            MountSource::Path("/home/alice".into()),
        ]
    );

    let graphics = of("graphics,display");
    assert!(nodes(&graphics).contains(&"/dev/nvidia-modeset".to_owned()));
    let glx = graphics
        .libraries
        .iter()
        .find(|library| library.soname == "libGLX_nvidia.so.0")
        .unwrap();
    assert_eq!(glx.links, ["libGLX_indirect.so.0"]);
    assert!(targets(&graphics).contains(&"/etc/vulkan/icd.d/nvidia_icd.json".to_owned()));
    assert_eq!(sonames(&of("ngx")), ["libnvidia-ngx.so.1"]);
    assert!(of("compat32").libraries.is_empty());
    let all = of("all");
    assert!(all.libraries.len() >= 28, "{:?}", sonames(&all));
    assert!(
        all.libraries
            .iter()
            .all(|library| library.source.display().to_string().ends_with(VERSION))
    );
    assert!(error(&host, &["NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_DRIVER_CAPABILITIES=x"]).contains("unknown word \"x\""));
}

#[test]
fn chosen_and_granted_gpus() {
    let clean = Clean::start();
    let host = host(&clean, "host", &["8"]);
    let of = |visible: &str, granted: Option<&[u32]>| {
        let visible = format!("NVIDIA_VISIBLE_DEVICES={visible}");
        let mut wish = wish(&host, &[&visible]);
        wish.granted = granted.map(<[u32]>::to_vec);
        found(&wish)
    };
    let gpus = |edits: &Edits| nodes(edits).split_off(1);
    let two = of("6,GPU-00000001", None).unwrap();
    assert_eq!(gpus(&two), ["/dev/nvidia1", "/dev/nvidia6"]);
    // The others are neither there nor spoken of.
    assert_eq!(two.hidden.len(), 12);
    assert!(two.hidden.contains(&"/dev/nvidia0".into()));
    assert!(two.hidden.contains(&"/proc/driver/nvidia/gpus/0000:07:00.0".into()));
    assert_eq!(
        gpus(&of("all", Some(&[2, 5])).unwrap()),
        ["/dev/nvidia2", "/dev/nvidia5"]
    );
    assert!(gpus(&of("none", None).unwrap()).is_empty());
    assert!(
        of("0", Some(&[2]))
            .unwrap_err()
            .to_string()
            .contains("the job was not given")
    );
    assert!(of("8", None).unwrap_err().to_string().contains("this node has 8 GPUs"));
    assert!(gpus(&of("all", Some(&[])).unwrap()).is_empty());
    for nothing in ["", "void"] {
        assert_eq!(of(nothing, Some(&[0])).unwrap(), Edits::default());
    }
}

#[test]
fn parts_of_gpus() {
    let clean = Clean::start();
    let host = host(&clean, "host", &["2", VERSION, "2"]);
    let of = |visible: &str| found(&wish(&host, &[&format!("NVIDIA_VISIBLE_DEVICES={visible}")])).unwrap();
    let caps = |edits: &Edits| {
        let all = edits
            .nodes
            .iter()
            .filter(|node| node.target.starts_with("/dev/nvidia-caps"));
        all.map(|node| (node.expected.major.unwrap(), node.expected.minor.unwrap()))
            .collect::<Vec<_>>()
    };
    // Numbers of GPU instance, compute instance; two of each GPU.
    assert_eq!(caps(&of("all")).len(), 8);
    assert_eq!(caps(&of("1:0")), [(234, 5), (234, 6)]);
    assert_eq!(
        caps(&of("MIG-GPU-00000000-1111-2222-3333-444444444440/8/0")),
        [(234, 3), (234, 4)]
    );
    let one = of("0:1");
    assert_eq!(nodes(&one)[..2], ["/dev/nvidiactl", "/dev/nvidia0"]);
    assert!(one.hidden.contains(&"/dev/nvidia-caps/nvidia-cap2".into()));
    assert!(error(&host, &["NVIDIA_VISIBLE_DEVICES=0:2"]).contains("no MIG device \"0:2\""));
}

#[test]
fn hosts_without_a_driver_or_with_half_of_one() {
    let clean = Clean::start();
    let host = host(&clean, "host", &["1"]);
    let all = [
        "NVIDIA_VISIBLE_DEVICES=all",
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    ];
    // The module's version does when /proc has none.
    fs::remove_file(host.join("proc/driver/nvidia/version")).unwrap();
    fs::create_dir_all(host.join("sys/module/nvidia")).unwrap();
    fs::write(host.join("sys/module/nvidia/version"), format!("{VERSION}\n")).unwrap();
    assert!(sonames(&found(&wish(&host, &all)).unwrap()).contains(&"libcuda.so.1"));
    // The driver that is loaded is not the one that is installed.
    fs::write(host.join("sys/module/nvidia/version"), "999.10.1\n").unwrap();
    let other = found(&wish(&host, &all)).unwrap();
    assert!(other.libraries.is_empty());
    assert!(
        other.warnings[0].contains("no libcuda.so of version 999.10.1"),
        "{:?}",
        other.warnings
    );
    // A library is missing, its links lead nowhere.
    fs::write(host.join("sys/module/nvidia/version"), format!("{VERSION}\n")).unwrap();
    let libraries = host.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    fs::remove_file(libraries.join(format!("libnvidia-cfg.so.{VERSION}"))).unwrap();
    fs::remove_file(libraries.join("libcuda.so.1")).unwrap();
    symlink("libcuda.so.1", libraries.join("libcuda.so.1")).unwrap();
    let less = found(&wish(&host, &all)).unwrap();
    assert!(!sonames(&less).contains(&"libnvidia-cfg.so.1") && !sonames(&less).contains(&"libcuda.so.1"));
    assert!(sonames(&less).contains(&"libnvidia-ml.so.1"));
    // A file of another machine with the right name.
    fs::remove_file(libraries.join("libcuda.so.1")).unwrap();
    let real = libraries.join(format!("libcuda.so.{VERSION}"));
    symlink(real.file_name().unwrap(), libraries.join("libcuda.so.1")).unwrap();
    assert!(sonames(&found(&wish(&host, &all)).unwrap()).contains(&"libcuda.so.1"));
    let mut bytes = fs::read(&real).unwrap();
    bytes[18] = 0xff;
    fs::write(&real, bytes).unwrap();
    assert!(!sonames(&found(&wish(&host, &all)).unwrap()).contains(&"libcuda.so.1"));
    // A cache that is none, that lies, that is gone.
    let cache = host.join("etc/ld.so.cache");
    let good = fs::read(&cache).unwrap();
    for bad in [&good[..100], b"nonsense", b""] {
        fs::write(&cache, bad).unwrap();
        let text = error(&host, &all);
        assert!(
            text.starts_with("/etc/ld.so.cache of this node cannot be used: ") && text.ends_with("run ldconfig"),
            "{text}"
        );
    }
    fs::remove_file(&cache).unwrap();
    assert!(error(&host, &all).contains("/etc/ld.so.cache is missing"));
    // No driver: an image that would like one starts without; who was promised a GPU is told.
    fs::remove_dir_all(host.join("sys")).unwrap();
    assert_eq!(found(&wish(&host, &all)).unwrap(), Edits::default());
    for asked in 0..3 {
        let mut wish = wish(&host, &all);
        match asked {
            0 => wish.granted = Some(vec![0]),
            1 => wish.gpus = Some(true),
            _ => drop(wish.job.insert("NVIDIA_VISIBLE_DEVICES".into(), "all".into())),
        }
        assert!(
            found(&wish)
                .unwrap_err()
                .to_string()
                .contains("the NVIDIA driver is not loaded")
        );
    }
}

#[test]
fn libraries_of_another_machine_are_not_the_drivers() {
    let clean = Clean::start();
    let host = host(&clean, "host", &["1"]);
    let library = host.join(format!(
        "usr/lib/{}-linux-gnu/libcuda.so.{VERSION}",
        std::env::consts::ARCH
    ));
    let mut bytes = fs::read(&library).unwrap();
    // e_machine (elf(5)) of 64-bit Arm, or of x86-64 there.
    bytes[18] = if bytes[18] == 183 { 62 } else { 183 };
    fs::write(&library, bytes).unwrap();
    let image = ["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute"];
    let edits = found(&wish(&host, &image)).unwrap();
    assert!(!sonames(&edits).contains(&"libcuda.so.1"), "{edits:?}");
    assert!(
        edits.warnings[0].contains("no libcuda.so of version"),
        "{:?}",
        edits.warnings
    );
}

#[test]
fn requirements_of_the_image() {
    let clean = Clean::start();
    let host = host(&clean, "host", &["1"]);
    let with = |require: &str, more: &str| {
        let require = format!("NVIDIA_REQUIRE_CUDA={require}");
        found(&wish(&host, &["NVIDIA_VISIBLE_DEVICES=all", &require, more]))
    };
    with("cuda>=12.4 brand=tesla,driver>=450,driver<451", "").unwrap();
    let text = with("cuda>=13.0", "").unwrap_err().to_string();
    assert!(
        text.contains("cuda>=13.0") && text.contains("driver 550.54.15, cuda 12.4"),
        "{text}"
    );
    with("cuda>=13.0", "NVIDIA_DISABLE_REQUIRE=1").unwrap();
}

#[test]
fn eight_gpus_with_everything() {
    let clean = Clean::start();
    let host = host(&clean, "host", &["8"]);
    let all = wish(&host, &["NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=all"]);
    let edits = found(&all).unwrap();
    assert!(edits.nodes.len() > 8 && edits.libraries.len() > 20, "{edits:?}");
}

/// A program that asks the loader for the driver's libraries, as CUDA does.
const PROGRAM: &str = r#"
#include <dlfcn.h>
#include <stdio.h>
int main(int count, char **names) {
    for (int i = 1; i < count; i++) {
        void *library = dlopen(names[i], RTLD_NOW);
        const char *(*says)(void) = library ? (const char *(*)(void))dlsym(library, "pyxis_test_says") : 0;
        puts(says ? says() : dlerror());
    }
    return 0;
}
"#;

fn compile(clean: &Clean, compiler: &str) -> PathBuf {
    let (source, program) = (clean.path("program.c"), clean.path(&format!("program-{compiler}")));
    fs::write(&source, PROGRAM).unwrap();
    let made = Command::new(compiler)
        .arg("-o")
        .args([&program, &source])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    program
}

/// Puts the program and the host's C library into an image, with the library in this directory.
fn glibc_image(tree: &Path, program: &Path, directory: &str) {
    fill_base(tree);
    let machine = std::env::consts::ARCH;
    let from = PathBuf::from(format!("/lib/{machine}-linux-gnu"));
    fs::create_dir_all(tree.join(directory)).unwrap();
    fs::copy(from.join("libc.so.6"), tree.join(directory).join("libc.so.6")).unwrap();
    let loader = match machine {
        "x86_64" => "lib64/ld-linux-x86-64.so.2",
        _ => "lib/ld-linux-aarch64.so.1",
    };
    fs::create_dir_all(tree.join(loader).parent().unwrap()).unwrap();
    fs::copy(Path::new("/").join(loader), tree.join(loader)).unwrap();
    fs::copy(program, tree.join("bin/program")).unwrap();
    fs::write(tree.join("etc/ld.so.conf"), format!("/{directory}\n")).unwrap();
    assert!(
        Command::new("/sbin/ldconfig")
            .arg("-r")
            .arg(tree)
            .status()
            .unwrap()
            .success()
    );
}

fn gpu_plan(host: &Path, writable: bool) -> Plan {
    let mut plan = plan();
    plan.restrict_dev = true;
    plan.writable = writable;
    plan.mounts = vec![proc_mount()];
    let image = [
        "NVIDIA_VISIBLE_DEVICES=all",
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    ];
    plan.devices = Some(wish(host, &image));
    plan
}

const BOTH: &str = "/bin/program libcuda.so.1 libnvidia-ml.so.1 libcuda.so";
const BOTH_SAY: &str = "libcuda.so.550.54.15\nlibnvidia-ml.so.550.54.15\nlibcuda.so.550.54.15\n";

#[test]
fn programs_find_the_driver_where_their_loader_looks() {
    let clean = Clean::start();
    let host = host(&clean, "host", &["1"]);
    let program = compile(&clean, "cc");
    let machine = std::env::consts::ARCH;
    for (number, directory) in [format!("usr/lib/{machine}-linux-gnu"), "usr/lib64".to_owned()]
        .iter()
        .enumerate()
    {
        let pack = clean.pack(&format!("image{number}"), |tree| glibc_image(tree, &program, directory));
        let packs = [pack];
        for writable in [true, false] {
            let plan = gpu_plan(&host, writable);
            let place = format!("/{directory}/libcuda.so.1");
            let script = format!("{BOTH}; readlink {place}; nvidia-smi; ls -l /dev/nvidia0 | grep -c 195");
            let ran = output(&plan, &packs, &script.replace("nvidia-smi", "/usr/bin/nvidia-smi"));
            let rest = format!("libcuda.so.{VERSION}\nnvidia-smi {VERSION}\n1\n");
            assert_eq!(ran, format!("{BOTH_SAY}{rest}"), "{directory}");
        }
        // Without a wish there is nothing of it.
        let mut without = plan();
        without.devices = Some(wish(&host, &["NVIDIA_VISIBLE_DEVICES=void"]));
        let (made, _) = build(&without, &packs).unwrap();
        let ran = run(&made, &without, BOTH);
        assert!(
            ran.output.contains("cannot open shared object file") && !ran.output.contains(VERSION),
            "{}",
            ran.output
        );
    }
}

#[test]
fn musl_finds_the_driver_too() {
    let clean = Clean::start();
    let host = host(&clean, "host", &["1"]);
    let program = compile(&clean, "musl-gcc");
    let machine = std::env::consts::ARCH;
    let image = |tree: &Path| {
        fill_base(tree);
        fs::create_dir_all(tree.join("lib")).unwrap();
        let loader = format!("lib/ld-musl-{machine}.so.1");
        let real = fs::canonicalize(Path::new("/").join(&loader)).unwrap();
        fs::copy(real, tree.join(loader)).unwrap();
        fs::copy(&program, tree.join("bin/program")).unwrap();
    };
    let packs = [clean.pack("image", image)];
    assert_eq!(output(&gpu_plan(&host, false), &packs, BOTH), BOTH_SAY);
    // The image has directories of its own choice.
    let packs = [
        clean.pack("image2", image),
        clean.pack("path", |tree| {
            fs::create_dir_all(tree.join("etc")).unwrap();
            fs::write(tree.join(format!("etc/ld-musl-{machine}.path")), "/opt/lib\n").unwrap();
        }),
    ];
    assert_eq!(output(&gpu_plan(&host, false), &packs, BOTH), BOTH_SAY);
}

#[test]
fn libraries_of_the_image_for_newer_drivers_come_first() {
    let clean = Clean::start();
    let host = host(&clean, "host", &["1"]);
    let program = compile(&clean, "cc");
    let machine = std::env::consts::ARCH;
    for (version, used) in [("560.1.1", true), ("550.54.15", false), ("540.1.1", false)] {
        let pack = clean.pack(&format!("image{version}"), |tree| {
            glibc_image(tree, &program, &format!("usr/lib/{machine}-linux-gnu"));
            let compat = tree.join("usr/local/cuda/compat");
            fs::create_dir_all(&compat).unwrap();
            let source = clean.path("compat.c");
            fs::write(
                &source,
                format!("const char *pyxis_test_says(void) {{ return \"compat {version}\"; }}\n"),
            )
            .unwrap();
            let file = compat.join(format!("libcuda.so.{version}"));
            let made = Command::new("cc")
                .args(["-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libcuda.so.1", "-o"])
                .args([&file, &source])
                .status();
            assert!(made.unwrap().success());
            symlink(file.file_name().unwrap(), compat.join("libcuda.so.1")).unwrap();
        });
        let ran = output(
            &gpu_plan(&host, false),
            &[pack],
            "/bin/program libcuda.so.1 libnvidia-ml.so.1",
        );
        let cuda = if used {
            format!("compat {version}")
        } else {
            format!("libcuda.so.{VERSION}")
        };
        assert_eq!(ran, format!("{cuda}\nlibnvidia-ml.so.{VERSION}\n"), "{version}");
    }
}

#[test]
fn images_whose_directories_are_links_get_nothing_outside() {
    let clean = Clean::start();
    let host = host(&clean, "host", &["1"]);
    let outside = clean.path("outside");
    host_dir(&outside, (0, 0), 0o777);
    let machine = std::env::consts::ARCH;
    for (number, target) in [
        outside.to_str().unwrap(),
        "/../../../../..",
        "/proc/1/root/usr",
        "/dev",
        "/usr/lib",
    ]
    .iter()
    .enumerate()
    {
        let pack = clean.pack(&format!("image{number}"), |tree| {
            fill_base(tree);
            fs::create_dir_all(tree.join("var")).unwrap();
            symlink(target, tree.join(format!("usr/lib/{machine}-linux-gnu"))).unwrap();
            for name in ["lib64", "usr/lib64", "usr/bin", "run", "lib"] {
                symlink(target, tree.join(name)).unwrap();
            }
            symlink(format!("{target}/cache"), tree.join("etc/ld.so.cache")).unwrap();
        });
        // Whether it starts or not.
        if let Ok((made, _)) = build(&gpu_plan(&host, false), &[pack]) {
            assert_ne!(run(&made, &gpu_plan(&host, false), "true").exit, Exit::Code(99));
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{target}");
        assert!(!Path::new(&format!("/libcuda.so.{VERSION}")).exists());
    }
}

/// A filter that ends the process which executes a program.
fn forbid_programs() {
    let rules = [libc::SYS_execve, libc::SYS_execveat]
        .map(|call| (call, Vec::new()))
        .into();
    let machine = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::KillProcess, machine);
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    seccompiler::apply_filter(&program).unwrap();
}

#[test]
fn no_program_is_executed_for_it() {
    let clean = Clean::start();
    let host = host(&clean, "host", &["2"]);
    let packs = [clean.base()];
    let plan = gpu_plan(&host, false);
    let in_filter = |action: &dyn Fn()| {
        let fds: Vec<_> = packs.iter().map(AsFd::as_fd).collect();
        let child = process::fork(&fds, || {
            forbid_programs();
            action();
            7
        });
        child.unwrap().wait().unwrap()
    };
    assert_eq!(in_filter(&|| drop(build(&plan, &packs).unwrap())), Exit::Code(7));
    // The filter works.
    let exec = in_filter(&|| drop(std::os::unix::process::CommandExt::exec(&mut Command::new("/bin/true"))));
    assert_eq!(exec, Exit::Signal(libc::SIGSYS));
}
