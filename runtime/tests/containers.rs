//! Containers that have a name, in real namespaces: what is kept, what is found again after any kind of end, and what a
//! user can and cannot do with the directories that are his.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]
mod common;

use common::*;
use pyxis_runtime::Error;
use pyxis_runtime::containers::{Data, Held, Key, Kind, Layer, Record};
use pyxis_runtime::namespaces::Namespaces;
use pyxis_runtime::plan::{FileContent, Identity, PlannedFile};
use pyxis_runtime::rootfs::{Base, Lower, Lowers, Writable};
use pyxis_runtime::sys::process::{self, Exit};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

const ID: &str = "pyxis_x";

/// A data path of its own, and one image.
struct Site {
    clean: Clean,
    packs: [OwnedFd; 1],
    path: PathBuf,
    key: Key,
}

impl Site {
    fn new() -> Self {
        let clean = Clean::start();
        let packs = [clean.base()];
        let path = clean.path("data");
        let key = Key::of(&[7; Key::LENGTH]).unwrap();
        Site {
            clean,
            packs,
            path,
            key,
        }
    }

    fn data(&self) -> Data {
        Data::open(&self.path, &user()).unwrap()
    }

    /// The container's directory.
    fn dir(&self) -> PathBuf {
        self.path.join(UID.to_string()).join(ID)
    }

    fn record(&self) -> pyxis_runtime::Result<Option<Record>> {
        self.data().container(ID).record(&self.key)
    }

    /// A start that makes the container.
    fn make(&self) -> Namespaces {
        let data = self.data();
        data.container(ID).renew().unwrap();
        let made = self.start(true);
        data.container(ID).keep(&self.key, &record()).unwrap();
        made
    }

    /// A start over what is there.
    fn start(&self, fresh: bool) -> Namespaces {
        let mount = self.data().container(ID).mount(|| ()).unwrap();
        let writable = Writable::Kept { mount, fresh };
        let packs = &self.packs;
        build_over(
            &plan(),
            &Base::Layers {
                lowers: &lowers(packs, &plan()).unwrap(),
                writable,
            },
        )
        .unwrap()
        .0
    }
}

fn record() -> Record {
    Record {
        image: "image".into(),
        manifest: None,
        config: Default::default(),
        layers: vec![Layer::Pack(pyxis_runtime::Digest::of(b"base"))],
        user_marks: false,
    }
}

fn sh(made: &Namespaces, script: &str) -> String {
    let ran = run(made, &plan(), script);
    assert_eq!(ran.exit, Exit::Code(0), "{}", ran.output);
    ran.output
}

#[test]
fn what_is_written_stays_and_belongs_to_the_user() {
    let site = Site::new();
    assert_eq!(site.record().unwrap(), None);
    let script = "echo new >/new && rm /usr/lib/data && mv /root /moved && chmod 700 / && stat -c %u /new";
    assert_eq!(sh(&site.make(), script), format!("{UID}\n"));
    assert_eq!(site.record().unwrap(), Some(record()));
    let script = "cat /new && test ! -e /usr/lib/data && test -d /moved && test ! -e /root && stat -c %a /";
    assert_eq!(sh(&site.start(false), script), "new\n700\n");
    for path in [
        site.path.join(UID.to_string()),
        site.dir(),
        site.dir().join("upper/new"),
    ] {
        assert_eq!(fs::metadata(&path).unwrap().uid(), UID, "{path:?}");
    }
    assert_eq!(
        fs::metadata(site.path.join(UID.to_string())).unwrap().mode() & 0o7777,
        0o700
    );
}

#[test]
fn a_container_in_use_is_waited_for() {
    let site = Site::new();
    let first = site.make();
    // Lets go when somebody has been told to wait for it.
    let mut held = Some(first);
    let started = std::time::Instant::now();
    let (ours, theirs) = pyxis_runtime::sys::channel::pair().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pyxis_runtime::sys::channel::recv::<String>(&theirs).unwrap();
            drop(held.take());
        });
        // The directory is in use: as seen by the kernel, whoever asks.
        let directory = fs::File::open(site.dir()).unwrap();
        assert!(pyxis_runtime::rootfs::overlay_is_in_use(directory.as_fd(), "upper").unwrap());
        pyxis_runtime::sys::channel::send(&ours, "go", &[]).unwrap();
        assert_eq!(sh(&site.start(false), "cat /usr/lib/data"), "from the image\n");
    });
    assert!(started.elapsed().as_secs() < 60);
    let directory = fs::File::open(site.dir()).unwrap();
    eventually("the kernel lets go", || {
        !pyxis_runtime::rootfs::overlay_is_in_use(directory.as_fd(), "upper").unwrap()
    });
}

#[test]
fn a_second_tree_over_a_running_container_is_the_same_file_system() {
    let site = Site::new();
    let held: Held = site.make().into();
    let (root, upper) = (held.get(Kind::Root).unwrap(), held.get(Kind::Upper).unwrap());
    let mut read_only = plan();
    read_only.writable = false;
    let (second, _) = build_over(&read_only, &Base::Running { root, upper }).unwrap();
    let (third, _) = build_over(&plan(), &Base::Running { root, upper }).unwrap();
    assert_eq!(sh(&third, "echo three >/three"), "");
    assert_eq!(
        sh(&second, "cat /three; (exec 2>&-; : >/x) || echo read-only"),
        "three\nread-only\n"
    );
    // And again from one that was made so.
    let third: Held = third.into();
    let (root, upper) = (third.get(Kind::Root).unwrap(), third.get(Kind::Upper).unwrap());
    let (fourth, _) = build_over(&plan(), &Base::Running { root, upper }).unwrap();
    assert_eq!(sh(&fourth, "cat /three"), "three\n");
    assert_eq!(fs::read_to_string(site.dir().join("upper/three")).unwrap(), "three\n");
}

#[test]
fn a_builder_that_is_killed_leaves_nothing_that_counts() {
    let site = Site::new();
    for round in 0..25 {
        let keep = [site.packs[0].as_fd()];
        let builder = process::fork(&keep, || {
            drop(site.make());
            0
        })
        .unwrap();
        let started = std::time::Instant::now();
        while started.elapsed() < std::time::Duration::from_micros(400 * round) {
            std::hint::spin_loop();
        }
        drop(builder);
        match site.record().unwrap() {
            // It was done already.
            Some(found) => {
                assert_eq!(found, record());
                assert_eq!(sh(&site.start(false), "cat /usr/lib/data"), "from the image\n");
                site.data().container(ID).remove().unwrap();
            }
            None => {
                assert_eq!(sh(&site.make(), "cat /usr/lib/data"), "from the image\n");
                site.data().container(ID).remove().unwrap();
            }
        }
        assert!(!site.dir().exists());
    }
}

#[test]
fn what_a_dead_machine_left_in_the_work_directory_does_not_matter() {
    let site = Site::new();
    drop(site.make());
    let work = site.dir().join("work");
    fs::create_dir_all(work.join("work/incompat/volatile")).unwrap();
    fs::write(work.join("work/#7"), "half a copy").unwrap();
    fs::create_dir(work.join("index")).unwrap();
    own(&work.join("index"), (UID, GID), 0o700);
    assert_eq!(fs::metadata(work.join("work")).unwrap().mode() & 0o7777, 0);
    assert_eq!(sh(&site.start(false), "cat /usr/lib/data"), "from the image\n");
    fs::write(work.join("work/#8"), "half a copy").unwrap();
    site.data().container(ID).remove().unwrap();
    assert!(!site.dir().exists());
}

/// Made where a process of the user reads the image, used where the kernel does; not the other way round.
#[test]
fn a_container_goes_from_the_second_rung_to_the_first() {
    let site = Site::new();
    let data = site.data();
    data.container(ID).renew().unwrap();
    let layers = || {
        site.packs
            .iter()
            .map(|pack| Lower::pack(pack.try_clone().unwrap()).unwrap())
            .collect()
    };
    let start = |lowers: &Lowers, fresh| {
        let mount = data.container(ID).mount(|| ()).unwrap();
        let writable = Writable::Kept { mount, fresh };
        build_over(&plan(), &Base::Layers { lowers, writable }).unwrap().0
    };
    let mut fuse = on_fuse(layers(), &user());
    let said = sh(
        &start(&fuse, true),
        "rm -r /usr && mkdir /usr && touch /usr/new && rm /bin/find && ls /usr",
    );
    assert_eq!(said, "new\n");
    let mut kernel = on_kernel(layers(), &user()).unwrap();
    kernel.go_on_with(true).unwrap();
    let made = start(&kernel, false);
    assert_eq!(
        sh(&made, "ls /usr; test ! -e /bin/find; rm -r /etc; mkdir /etc; ls /etc"),
        "new\n"
    );
    drop((made, kernel));
    assert_eq!(sh(&start(&fuse, false), "ls /usr /etc"), "/etc:\n\n/usr:\nnew\n");
    let error = fuse.go_on_with(false).unwrap_err();
    assert!(error.to_string().contains("make it anew"), "{error}");
}

#[test]
fn a_record_from_elsewhere_is_refused_and_nothing_is_removed() {
    let site = Site::new();
    drop(site.make());
    let file = site.dir().join("container.json");
    let good = fs::read_to_string(&file).unwrap();
    let wanted = pyxis_runtime::Digest::of(b"a private layer of bob's").to_string();
    let forged = good.replace(&pyxis_runtime::Digest::of(b"base").to_string(), &wanted);
    for text in [forged.as_str(), "", "{}", &good[..good.len() / 2]] {
        fs::write(&file, text).unwrap();
        let error = site.record().unwrap_err();
        assert!(matches!(error, Error::Request(_)), "{error:?}");
        assert!(
            error
                .to_string()
                .contains("container.json was not written by this node"),
            "{error}"
        );
        assert!(site.data().container(ID).discard().is_err(), "{text}");
        assert!(site.dir().join("upper").exists());
    }
    // Another container's.
    fs::write(&file, &good).unwrap();
    let other = site.dir().with_file_name("pyxis_y");
    fs::create_dir(&other).unwrap();
    own(&other, (UID, GID), 0o700);
    fs::write(other.join("container.json"), &good).unwrap();
    own(&other.join("container.json"), (UID, GID), 0o600);
    assert!(site.data().container("pyxis_y").record(&site.key).is_err());
    // Another node's.
    let key = Key::of(&[8; Key::LENGTH]).unwrap();
    assert!(site.data().container(ID).record(&key).is_err());
    assert_eq!(site.record().unwrap(), Some(record()));
}

#[test]
fn a_record_is_read_with_the_users_rights_and_nothing_is_waited_for() {
    let site = Site::new();
    drop(site.make());
    let file = site.dir().join("container.json");
    let copy = site.clean.path("roots-copy");
    fs::copy(&file, &copy).unwrap();
    own(&copy, (0, 0), 0o600);
    fs::remove_file(&file).unwrap();
    symlink(&copy, &file).unwrap();
    assert!(site.record().is_err());
    fs::remove_file(&file).unwrap();
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    own(&file, (UID, GID), 0o600);
    assert!(site.record().is_err());
    fs::remove_file(&file).unwrap();
    assert_eq!(site.record().unwrap(), None);
}

#[test]
fn links_that_the_user_has_planted_lead_nowhere() {
    let site = Site::new();
    drop(site.data());
    let outside = site.clean.path("outside");
    host_dir(&outside, (0, 0), 0o755);
    host_file(&outside.join("file"), "stays", (0, 0), 0o644);
    // In place of the container.
    symlink(&outside, site.dir()).unwrap();
    for error in [
        site.data().container(ID).renew().unwrap_err(),
        site.record().unwrap_err(),
        site.data().container(ID).mount(|| ()).unwrap_err(),
        site.data().container(ID).remove().unwrap_err(),
    ] {
        assert!(error.to_string().contains("is not a directory: remove it"), "{error}");
    }
    fs::remove_file(site.dir()).unwrap();
    // In place of its parts.
    drop(site.make());
    fs::remove_dir_all(site.dir().join("upper")).unwrap();
    symlink(&outside, site.dir().join("upper")).unwrap();
    let mount = site.data().container(ID).mount(|| ()).unwrap();
    let writable = Writable::Kept { mount, fresh: false };
    let packs = &site.packs;
    assert!(
        build_over(
            &plan(),
            &Base::Layers {
                lowers: &lowers(packs, &plan()).unwrap(),
                writable
            }
        )
        .is_err()
    );
    fs::remove_dir_all(site.dir().join("work")).unwrap();
    symlink(&outside, site.dir().join("work")).unwrap();
    assert!(site.data().container(ID).mount(|| ()).is_err());
    fs::remove_file(site.dir().join("work")).unwrap();
    site.data().container(ID).remove().unwrap();
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "stays");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[test]
fn an_upper_directory_of_somebody_else_is_refused() {
    let site = Site::new();
    drop(site.make());
    own(&site.dir().join("upper"), (0, 0), 0o777);
    let mount = site.data().container(ID).mount(|| ()).unwrap();
    let writable = Writable::Kept { mount, fresh: false };
    let packs = &site.packs;
    let error = build_over(
        &plan(),
        &Base::Layers {
            lowers: &lowers(packs, &plan()).unwrap(),
            writable,
        },
    )
    .unwrap_err();
    // In a user namespace he has no number.
    assert!(error.to_string().contains("belongs to uid "), "{error}");
}

#[test]
fn an_upper_directory_that_is_exchanged_meanwhile_is_the_users_or_none() {
    let site = Site::new();
    drop(site.make());
    let (upper, other) = (site.dir().join("upper"), site.dir().join("other"));
    host_dir(&other, (0, 0), 0o777);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(rustix::fs::CWD, &upper, rustix::fs::CWD, &other, flags).unwrap();
            }
        });
        for _ in 0..40 {
            let mount = site.data().container(ID).mount(|| ()).unwrap();
            let writable = Writable::Kept { mount, fresh: true };
            let lowers = lowers(&site.packs, &plan()).unwrap();
            let lowers = &lowers;
            if let Ok((made, _)) = build_over(&plan(), &Base::Layers { lowers, writable }) {
                assert_eq!(rustix::fs::fstat(&made.upper).unwrap().st_uid, UID);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    let mode = |path: &PathBuf| {
        fs::metadata(path)
            .map(|meta| (meta.uid(), meta.mode() & 0o777))
            .unwrap()
    };
    let somebodys = [mode(&upper), mode(&other)].into_iter().find(|(uid, _)| *uid == 0);
    assert_eq!(somebodys, Some((0, 0o777)));
}

#[test]
fn a_link_does_not_tell_what_is_in_use_elsewhere() {
    let site = Site::new();
    let made = site.make();
    let elsewhere = site.clean.path("elsewhere");
    host_dir(&elsewhere, (UID, GID), 0o700);
    symlink(site.dir().join("upper"), elsewhere.join("upper")).unwrap();
    let in_use = |path: &PathBuf| {
        let directory = fs::File::open(path).unwrap();
        pyxis_runtime::rootfs::overlay_is_in_use(directory.as_fd(), "upper").unwrap()
    };
    assert_eq!((in_use(&site.dir()), in_use(&elsewhere)), (true, false));
    drop(made);
}

#[test]
fn a_file_of_somebody_else_is_not_copied_for_the_user() {
    let site = Site::new();
    drop(site.make());
    let secret = site.clean.path("secret");
    host_file(&secret, "secret:x\n", (0, 0), 0o600);
    let etc = site.dir().join("upper/etc");
    fs::create_dir_all(&etc).unwrap();
    own(&etc, (UID, GID), 0o755);
    let _ = fs::remove_file(etc.join("passwd"));
    fs::hard_link(&secret, etc.join("passwd")).unwrap();
    let mount = site.data().container(ID).mount(|| ()).unwrap();
    let writable = Writable::Kept { mount, fresh: false };
    let lowers = lowers(&site.packs, &plan()).unwrap();
    let mut plan = plan();
    plan.files = vec![PlannedFile {
        path: "/etc/passwd".into(),
        content: FileContent::Prepend {
            lines: vec![],
            drop: vec![],
        },
        only_with: None,
    }];
    let lowers = &lowers;
    build_over(&plan, &Base::Layers { lowers, writable }).unwrap();
    assert_eq!(fs::read_to_string(etc.join("passwd")).unwrap(), "");
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret:x\n");
}

#[test]
fn nothing_is_looked_for_in_what_the_user_has_mounted_on_his_directories() {
    let site = Site::new();
    drop(site.make());
    let outside = site.clean.path("outside");
    host_dir(&outside, (UID, GID), 0o700);
    host_file(&outside.join("file"), "stays", (UID, GID), 0o644);
    for place in [site.dir(), site.dir().parent().unwrap().to_owned()] {
        rustix::mount::mount_bind(&outside, &place).unwrap();
        let removed = Data::open(&site.path, &user()).and_then(|data| data.container(ID).remove());
        let existing = Data::existing(&site.path, UID).and_then(|data| data.unwrap().container(ID).remove());
        rustix::mount::unmount(&place, rustix::mount::UnmountFlags::DETACH).unwrap();
        for error in [removed.unwrap_err().to_string(), existing.unwrap_err().to_string()] {
            assert!(error.contains("something is mounted there"), "{error}");
        }
    }
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "stays");
    assert!(Data::existing(&site.path, UID + 1).unwrap().is_none());
    site.data().container(ID).remove().unwrap();
}

#[test]
fn what_is_no_container_is_not_removed() {
    let site = Site::new();
    let data = site.data();
    fs::create_dir_all(site.dir().join("etc")).unwrap();
    own(&site.dir(), (UID, GID), 0o700);
    let error = data.container(ID).renew().unwrap_err();
    assert!(
        error.to_string().contains("holds something else than a container"),
        "{error}"
    );
    assert!(site.dir().join("etc").exists());
}

#[test]
fn a_user_reaches_nothing_of_another() {
    let site = Site::new();
    drop(site.make());
    let other = Identity {
        uid: UID + 10,
        gid: GID + 10,
        groups: vec![],
    };
    let data = Data::open(&site.path, &other).unwrap();
    assert_eq!(data.container(ID).record(&site.key).unwrap(), None);
    assert!(data.ids().unwrap().is_empty());
    // A directory that others can look into is none for containers.
    fs::set_permissions(site.path.join(other.uid.to_string()), PermissionsExt::from_mode(0o755)).unwrap();
    let error = Data::open(&site.path, &other).unwrap_err();
    assert!(error.to_string().contains("must belong to uid"), "{error}");
    fs::remove_dir(site.path.join(other.uid.to_string())).unwrap();
    // Where others may write nothing of theirs is taken for the user's.
    fs::set_permissions(&site.path, PermissionsExt::from_mode(0o1777)).unwrap();
    fs::create_dir(site.path.join(other.uid.to_string())).unwrap();
    own(&site.path.join(other.uid.to_string()), (UID, GID), 0o777);
    let error = Data::open(&site.path, &other).unwrap_err();
    assert!(error.to_string().contains(&format!("belongs to uid {UID}")), "{error}");
    fs::remove_dir(site.path.join(other.uid.to_string())).unwrap();
    Data::open(&site.path, &other).unwrap();
    let made = fs::metadata(site.path.join(other.uid.to_string())).unwrap();
    assert_eq!((made.uid(), made.mode() & 0o7777), (other.uid, 0o700));
}

#[test]
fn a_data_path_that_cannot_take_containers_says_so() {
    let site = Site::new();
    // An overlay whose upper layer is an overlay already: the kernel takes none on top.
    let child = process::fork(&[site.packs[0].as_fd()], || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        rustix::mount::mount_change(
            "/",
            rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
        )
        .unwrap();
        for name in ["lower", "up", "work", "data"] {
            fs::create_dir(site.clean.path(name)).unwrap();
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            text(&site.clean.path("lower")),
            text(&site.clean.path("up")),
            text(&site.clean.path("work"))
        );
        nix::mount::mount(
            Some("overlay"),
            &site.path,
            Some("overlay"),
            nix::mount::MsFlags::empty(),
            Some(options.as_str()),
        )
        .unwrap();
        site.data().container(ID).renew().unwrap();
        let mount = site.data().container(ID).mount(|| ()).unwrap();
        let writable = Writable::Kept { mount, fresh: true };
        let packs = &site.packs;
        let error = build_over(
            &plan(),
            &Base::Layers {
                lowers: &lowers(packs, &plan()).unwrap(),
                writable,
            },
        )
        .unwrap_err();
        assert!(matches!(error, Error::Host(_)), "{error:?}");
        assert!(error.to_string().contains("container.data_path cannot take"), "{error}");
        0
    });
    assert_eq!(child.unwrap().wait().unwrap(), Exit::Code(0));
}

#[test]
fn a_full_disk_is_named() {
    let site = Site::new();
    let child = process::fork(&[site.packs[0].as_fd()], || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        rustix::mount::mount_change(
            "/",
            rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC,
        )
        .unwrap();
        fs::create_dir(&site.path).unwrap();
        let options = Some("size=64k,mode=755");
        nix::mount::mount(
            Some("tmpfs"),
            &site.path,
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            options,
        )
        .unwrap();
        let data = site.data();
        data.container(ID).renew().unwrap();
        let filled = fs::write(site.path.join("filler"), vec![0; 1 << 20]);
        assert!(filled.is_err());
        let error = data.container(ID).keep(&site.key, &record()).unwrap_err();
        assert!(
            error.to_string().contains("the disk of container.data_path is full"),
            "{error}"
        );
        assert_eq!(data.container(ID).record(&site.key).unwrap(), None);
        fs::remove_file(site.path.join("filler")).unwrap();
        data.container(ID).renew().unwrap();
        data.container(ID).keep(&site.key, &record()).unwrap();
        assert_eq!(data.container(ID).record(&site.key).unwrap(), Some(record()));
        0
    });
    assert_eq!(child.unwrap().wait().unwrap(), Exit::Code(0));
}

#[test]
fn everything_of_a_container_is_removed_with_the_users_rights() {
    let site = Site::new();
    let script =
        "mkdir -p /a/b/c && touch /a/b/c/d && chmod 500 /a/b/c && chmod 0 /a/b && ln -s / /a/root && rm -r /etc";
    drop({
        let made = site.make();
        sh(&made, script);
        made
    });
    let data = Data::existing(&site.path, UID).unwrap().unwrap();
    assert_eq!(data.ids().unwrap(), [ID]);
    // Somebody else's file in there is not root's to remove.
    let foreign = site.dir().join("upper/foreign");
    host_dir(&foreign, (0, 0), 0o755);
    host_file(&foreign.join("file"), "root's", (0, 0), 0o644);
    assert!(data.container(ID).remove().is_err());
    fs::remove_dir_all(site.dir().join("upper")).ok();
    for left in fs::read_dir(site.dir()).unwrap() {
        fs::remove_dir_all(left.unwrap().path()).unwrap();
    }
    drop(site.make());
    data.container(ID).remove().unwrap();
    assert!(data.ids().unwrap().is_empty());
    data.container(ID).remove().unwrap();
    assert!(Data::existing(&site.path, UID + 1).unwrap().is_none());
}

#[test]
fn a_path_of_the_users_own_is_made_with_his_rights() {
    let site = Site::new();
    let home = site.clean.path("home");
    host_dir(&home, (UID, GID), 0o700);
    let path = home.join("share/enroot");
    assert!(Data::existing_own(&path, UID).unwrap().is_none());
    Data::open_own(&path, &user()).unwrap();
    for made in ["share", "share/enroot", &format!("share/enroot/{UID}")] {
        let made = fs::metadata(home.join(made)).unwrap();
        assert_eq!((made.uid(), made.mode() & 0o7777), (UID, 0o700));
    }
    assert!(Data::existing_own(&path, UID).unwrap().is_some());
    // A link to a directory of root's makes root do nothing there.
    let roots = site.clean.path("roots");
    host_dir(&roots, (0, 0), 0o755);
    std::os::unix::fs::symlink(&roots, home.join("link")).unwrap();
    for path in ["link", "link/below"] {
        let error = Data::open_own(&home.join(path), &user()).unwrap_err();
        assert!(error.to_string().contains("cannot create"), "{error}");
    }
    assert!(fs::read_dir(&roots).unwrap().next().is_none());
}
