//! The container's `/etc/passwd` and `/etc/group`: the user, root and nobody first, then what the image has.
#![forbid(unsafe_code)]

use super::{AccountLine, FileContent, Identity, PlannedFile};
use crate::worker::protocol::{Account, Accounts};
use std::path::PathBuf;

/// The id that unmapped owners show as (user_namespaces(7), "overflow" ids).
const NOBODY: u32 = 65534;

/// The two files. The user is called root when remapped, and keeps the own name and shell otherwise.
pub(super) fn files(identity: &Identity, accounts: &Accounts, remap_root: bool) -> Vec<PlannedFile> {
    let file = |path: &str, lines, drop: &[&str]| PlannedFile {
        path: PathBuf::from(path),
        content: FileContent::Prepend {
            lines,
            drop: drop.iter().map(|name| (*name).to_owned()).collect(),
        },
        only_with: None,
    };
    vec![
        file("/etc/passwd", passwd(identity, accounts, remap_root), &["_apt"]),
        file("/etc/group", group(identity, accounts, remap_root), &[]),
    ]
}

fn passwd(identity: &Identity, accounts: &Accounts, remap_root: bool) -> Vec<AccountLine> {
    let nobody = entry("nobody", NOBODY, NOBODY, "nobody", "/", "/sbin/nologin");
    let shell = accounts.user.as_ref().map_or("/bin/sh", |user| user.shell.as_str());
    let root = entry(
        "root",
        0,
        0,
        "root",
        "/root",
        if remap_root { shell } else { "/bin/sh" },
    );
    if remap_root || identity.uid == 0 {
        return vec![root, nobody];
    }
    let user = accounts.user.clone().unwrap_or_else(|| Account {
        name: format!("uid{}", identity.uid),
        gecos: String::new(),
        home: "/".to_owned(),
        shell: "/bin/sh".to_owned(),
    });
    vec![
        entry(
            &user.name,
            identity.uid,
            identity.gid,
            &user.gecos,
            &user.home,
            &user.shell,
        ),
        root,
        nobody,
    ]
}

fn group(identity: &Identity, accounts: &Accounts, remap_root: bool) -> Vec<AccountLine> {
    let line = |name: &str, gid| AccountLine {
        text: format!("{}:x:{gid}:", field(name)),
        shell: None,
    };
    let mut lines = vec![line("root", 0), line("nogroup", NOBODY)];
    if !remap_root && identity.gid != 0 {
        let name = accounts.group.clone().unwrap_or_else(|| format!("gid{}", identity.gid));
        lines.insert(0, line(&name, identity.gid));
    }
    lines
}

fn entry(name: &str, uid: u32, gid: u32, gecos: &str, home: &str, shell: &str) -> AccountLine {
    AccountLine {
        text: format!("{}:x:{uid}:{gid}:{}:{}:", field(name), field(gecos), field(home)),
        shell: Some(PathBuf::from(field(if shell.is_empty() { "/bin/sh" } else { shell }))),
    }
}

/// A field cannot hold the separators of the file.
fn field(text: &str) -> String {
    text.chars().filter(|c| *c != ':' && !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> (Identity, Accounts) {
        let user = Account {
            name: "alice".into(),
            gecos: "Alice".into(),
            home: "/home/alice".into(),
            shell: "/bin/zsh".into(),
        };
        (
            Identity {
                uid: 1000,
                gid: 100,
                groups: vec![],
            },
            Accounts {
                user: Some(user),
                group: Some("users".into()),
            },
        )
    }

    fn texts(lines: &[AccountLine]) -> Vec<String> {
        let shell = |line: &AccountLine| {
            line.shell
                .as_ref()
                .map_or_else(String::new, |s| s.display().to_string())
        };
        lines
            .iter()
            .map(|line| format!("{}{}", line.text, shell(line)))
            .collect()
    }

    #[test]
    fn the_user_comes_first() {
        let (identity, accounts) = alice();
        assert_eq!(
            texts(&passwd(&identity, &accounts, false)),
            [
                "alice:x:1000:100:Alice:/home/alice:/bin/zsh",
                "root:x:0:0:root:/root:/bin/sh",
                "nobody:x:65534:65534:nobody:/:/sbin/nologin"
            ]
        );
        assert_eq!(
            texts(&group(&identity, &accounts, false)),
            ["users:x:100:", "root:x:0:", "nogroup:x:65534:"]
        );
    }

    #[test]
    fn a_remapped_user_is_root() {
        let (identity, accounts) = alice();
        assert_eq!(
            texts(&passwd(&identity, &accounts, true))[0],
            "root:x:0:0:root:/root:/bin/zsh"
        );
        assert_eq!(
            texts(&group(&identity, &accounts, true)),
            ["root:x:0:", "nogroup:x:65534:"]
        );
    }

    #[test]
    fn an_unknown_user_gets_an_entry_and_fields_stay_fields() {
        let (identity, mut accounts) = alice();
        accounts.user = None;
        assert_eq!(
            texts(&passwd(&identity, &accounts, false))[0],
            "uid1000:x:1000:100::/:/bin/sh"
        );
        let (_, mut accounts) = alice();
        if let Some(user) = accounts.user.as_mut() {
            user.gecos = "a:b\nroot::0:0".into();
        }
        assert_eq!(
            texts(&passwd(&identity, &accounts, false))[0],
            "alice:x:1000:100:abroot00:/home/alice:/bin/zsh"
        );
    }
}
