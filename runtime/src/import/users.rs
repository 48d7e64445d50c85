//! The service user, which an import's processes are that parse what comes from outside.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::plan::Identity;

/// Where system accounts are.
const PASSWD: &str = "/etc/passwd";

/// The service user `name`. It is read from the file and not asked of the name service: it is a system account, and
/// this process must not load name service modules.
pub(crate) fn service_user(name: &str) -> Result<Identity> {
    let text = std::fs::read_to_string(PASSWD)
        .map_err(|error| Error::sys("find the service user", format!("read({PASSWD})"), error))?;
    match find(&text, name) {
        Some(identity) if identity.uid != 0 => Ok(identity),
        Some(_) => Err(Error::Host(format!(
            "the service user {name} is root: set worker.user to an unprivileged account"
        ))),
        None => Err(Error::Host(format!(
            "the service user {name} is not in {PASSWD}: run systemd-sysusers, or set worker.user"
        ))),
    }
}

/// The ids of the account in a passwd(5) file. A service user has no supplementary groups.
fn find(passwd: &str, name: &str) -> Option<Identity> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    let uid = fields.next()?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(Identity {
        uid,
        gid,
        groups: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_by_its_whole_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\npyxis2:x:7:8:::\npyxis:x:998:997:Pyxis:/:/usr/sbin/nologin\n";
        assert_eq!(
            find(passwd, "pyxis"),
            Some(Identity {
                uid: 998,
                gid: 997,
                groups: vec![]
            })
        );
        assert_eq!(find(passwd, "pyx"), None);
        assert_eq!(find("pyxis:x:a:b::\n", "pyxis"), None);
    }

    #[test]
    fn a_missing_account_says_what_to_do() {
        let text = service_user("no-such-account").unwrap_err().to_string();
        assert!(text.contains("systemd-sysusers"), "{text}");
        assert!(service_user("root").is_err());
    }
}
