//! The `lookup` role: asks the name service about a user. It may load any module and talk to any daemon (sssd, nslcd),
//! so it happens in a process of its own and never in a fork of a threaded host.
#![forbid(unsafe_code)]

use super::protocol::{Account, Accounts, LookupRequest};
use crate::error::{Error, Result};
use nix::unistd::{Gid, Group, Uid, User};

pub(super) fn run(request: &LookupRequest) -> Result<Accounts> {
    let user = User::from_uid(Uid::from_raw(request.uid))
        .map_err(|error| Error::sys("look the user up", format!("getpwuid_r({})", request.uid), error))?;
    let group = Group::from_gid(Gid::from_raw(request.gid))
        .map_err(|error| Error::sys("look the group up", format!("getgrgid_r({})", request.gid), error))?;
    let user = user.map(|user| Account {
        name: user.name,
        gecos: user.gecos.to_string_lossy().into_owned(),
        home: user.dir.to_string_lossy().into_owned(),
        shell: user.shell.to_string_lossy().into_owned(),
    });
    Ok(Accounts {
        user,
        group: group.map(|group| group.name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_everywhere() {
        let accounts = run(&LookupRequest { uid: 0, gid: 0 }).unwrap();
        assert_eq!(accounts.user.unwrap().name, "root");
        assert_eq!(accounts.group.as_deref(), Some("root"));
    }

    #[test]
    fn an_unknown_user_is_not_an_error() {
        let accounts = run(&LookupRequest {
            uid: 987_654_321,
            gid: 987_654_321,
        })
        .unwrap();
        assert_eq!(accounts, Accounts::default());
    }
}
