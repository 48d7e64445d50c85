//! Whether the kernel may mount a file: only when nobody but root and the owners that the site trusts can change it or
//! put another one in its place. Pure: the facts were gathered on descriptors, one for each thing that the path goes
//! through.
#![forbid(unsafe_code)]

use super::policy::ImagesConfig;
use std::path::PathBuf;

/// One thing on the way to a file, the file included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// Its path, as it was walked.
    pub path: PathBuf,
    /// Its owner.
    pub uid: u32,
    /// Its mode. An access control list cannot give more to anybody than the group's bits show.
    pub mode: u32,
    /// It is a symbolic link, whose mode means nothing.
    pub link: bool,
    /// The kind of its file system (`f_type` of statfs(2)).
    pub file_system: u64,
}

/// Who may write to the file right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writers {
    /// Nobody has it open for writing.
    None,
    /// Somebody has.
    Some,
    /// Its file system cannot tell.
    Unknown,
}

/// The decision, with its reason for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Nobody else can change it.
    Trusted,
    /// Somebody could; this is how.
    Untrusted(String),
}

/// File systems of this machine: name and number (linux/magic.h).
const LOCAL: [(&str, u64); 11] = [
    ("ext4", 0xEF53),
    ("xfs", 0x5846_5342),
    ("btrfs", 0x9123_683E),
    ("tmpfs", 0x0102_1994),
    ("overlay", 0x794C_7630),
    ("squashfs", 0x7371_7368),
    ("erofs", 0xE0F5_E1E2),
    ("f2fs", 0xF2F5_2010),
    ("zfs", 0x2FC1_2FC1),
    ("bcachefs", 0xCA45_1A4E),
    ("rootfs", 0x8584_58F6),
];
/// File systems of servers, whose word on owners counts only where the site says so.
const REMOTE: [(&str, u64); 6] = [
    ("nfs", 0x6969),
    ("lustre", 0x0BD0_0BD0),
    ("gpfs", 0x4750_4653),
    ("ceph", 0x00C3_6400),
    ("beegfs", 0x1983_0326),
    ("afs", 0x5346_414F),
];

/// The names that a site may trust.
pub fn is_remote_name(name: &str) -> bool {
    REMOTE.iter().any(|(known, _)| *known == name)
}

/// The name of a kind of file system, and whether it is one of this machine.
pub fn file_system(kind: u64) -> Option<(&'static str, bool)> {
    let find = |list: &[(&'static str, u64)]| list.iter().find(|(_, known)| *known == kind).map(|(name, _)| *name);
    let local = find(&LOCAL).map(|name| (name, true));
    local.or_else(|| find(&REMOTE).map(|name| (name, false)))
}

/// Decides.
pub fn judge(facts: &[Fact], writers: Writers, site: &ImagesConfig) -> Trust {
    let reason = facts.iter().find_map(|fact| objection(fact, site));
    match (reason, writers) {
        (Some(reason), _) => Trust::Untrusted(reason),
        (None, Writers::Some) => Trust::Untrusted("somebody has it open for writing".to_owned()),
        // Where the file system cannot tell, its owners are the word that counts.
        (None, Writers::None | Writers::Unknown) => Trust::Trusted,
    }
}

fn objection(fact: &Fact, site: &ImagesConfig) -> Option<String> {
    let path = fact.path.display();
    if fact.uid != 0 && !site.trusted_owners.contains(&fact.uid) {
        return Some(format!(
            "{path} belongs to uid {}, which is not one of images.trusted_owners",
            fact.uid
        ));
    }
    if !fact.link && fact.mode & 0o022 != 0 {
        return Some(format!("others than its owner can write to {path}"));
    }
    let local = LOCAL.iter().any(|(_, kind)| *kind == fact.file_system);
    let allowed = |(name, kind): &(&str, u64)| {
        *kind == fact.file_system && site.trusted_file_systems.iter().any(|trusted| trusted == name)
    };
    if local || REMOTE.iter().any(allowed) {
        return None;
    }
    let name = REMOTE.iter().find(|(_, kind)| *kind == fact.file_system);
    let name = name.map_or_else(
        || format!("of kind {:#x}", fact.file_system),
        |(name, _)| (*name).to_owned(),
    );
    Some(format!(
        "{path} is on a file system ({name}) whose word on owners the site does not trust"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(path: &str, uid: u32, mode: u32) -> Fact {
        Fact {
            path: path.into(),
            uid,
            mode,
            link: false,
            file_system: 0xEF53,
        }
    }

    fn chain(last: Fact) -> Vec<Fact> {
        vec![fact("/", 0, 0o755), fact("/images", 0, 0o755), last]
    }

    fn objection_to(facts: &[Fact], site: &ImagesConfig) -> String {
        match judge(facts, Writers::None, site) {
            Trust::Trusted => String::new(),
            Trust::Untrusted(reason) => reason,
        }
    }

    #[test]
    fn roots_files_are_trusted_and_those_of_owners_that_the_site_names() {
        let site = ImagesConfig::default();
        let named = ImagesConfig {
            trusted_owners: vec![500],
            ..ImagesConfig::default()
        };
        assert_eq!(objection_to(&chain(fact("/images/x", 0, 0o644)), &site), "");
        let theirs = chain(fact("/images/x", 500, 0o644));
        assert!(objection_to(&theirs, &site).contains("/images/x belongs to uid 500"));
        assert_eq!(objection_to(&theirs, &named), "");
    }

    #[test]
    fn one_writable_thing_on_the_way_is_enough() {
        let site = ImagesConfig::default();
        for mode in [0o664, 0o646, 0o666, 0o660] {
            let reason = objection_to(&chain(fact("/images/x", 0, mode)), &site);
            assert_eq!(reason, "others than its owner can write to /images/x", "{mode:o}");
        }
        // /tmp: the sticky bit keeps others from removing a file, but not from having put it there.
        let mut facts = chain(fact("/images/x", 0, 0o644));
        facts[1].mode = 0o1777;
        assert!(objection_to(&facts, &site).contains("/images"));
        // A user's directory above a file of the administrator.
        facts[1] = fact("/home/alice", 1000, 0o755);
        assert!(objection_to(&facts, &site).contains("/home/alice belongs to uid 1000"));
    }

    #[test]
    fn a_link_is_as_good_as_its_owner() {
        let site = ImagesConfig::default();
        let link = |uid| Fact {
            link: true,
            ..fact("/images/latest", uid, 0o777)
        };
        let chain = |uid| vec![fact("/", 0, 0o755), link(uid), fact("/images/x", 0, 0o644)];
        assert_eq!(objection_to(&chain(0), &site), "");
        assert!(objection_to(&chain(1000), &site).contains("/images/latest belongs to uid 1000"));
    }

    #[test]
    fn a_server_is_believed_when_the_site_says_so_and_fuse_never() {
        let nfs = ImagesConfig {
            trusted_file_systems: vec!["nfs".into()],
            ..ImagesConfig::default()
        };
        let on = |file_system| {
            chain(Fact {
                file_system,
                ..fact("/images/x", 0, 0o644)
            })
        };
        assert!(objection_to(&on(0x6969), &ImagesConfig::default()).contains("(nfs)"));
        assert_eq!(objection_to(&on(0x6969), &nfs), "");
        assert!(objection_to(&on(0x0BD0_0BD0), &nfs).contains("(lustre)"));
        assert!(objection_to(&on(0x6573_5546), &nfs).contains("of kind 0x65735546"));
        assert!(is_remote_name("nfs") && !is_remote_name("fuse"));
    }

    #[test]
    fn a_writer_at_work_is_seen() {
        let facts = chain(fact("/images/x", 0, 0o644));
        let site = ImagesConfig::default();
        assert_eq!(judge(&facts, Writers::Unknown, &site), Trust::Trusted);
        assert!(matches!(judge(&facts, Writers::Some, &site), Trust::Untrusted(_)));
    }
}
