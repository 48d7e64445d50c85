//! Joining a running container: it is what it is, whatever the request says about mounts and the like.
#![forbid(unsafe_code)]

use super::Start;
use crate::containers::{Description, Found, Held};
use crate::error::{Error, Result};
use crate::plan::Unshare;
use crate::report::Report;
use crate::request::Request;

impl Start<'_> {
    /// Takes a running container's descriptors, and tells what of the request has no effect.
    pub(super) fn join(&self, found: Found, report: &mut dyn FnMut(Report)) -> Result<(Held, Description)> {
        let Found { held, mut description } = found;
        let gid = self.job.identity.gid;
        if description.gid != gid {
            return Err(Error::Request(format!(
                "container {} runs with group {}: a step with group {gid} cannot join it",
                description.id, description.gid
            )));
        }
        if let Some(kind) = not_apart(self.request.unshare, description.unshare) {
            return Err(Error::Request(format!(
                "container {} runs, and is not in a separate {kind} namespace: leave out --container-unshare, or use \
                 another container",
                description.id
            )));
        }
        for option in without_effect(self.request, &description) {
            report(Report::Warning(format!(
                "ignoring {option} when attaching to a running container"
            )));
        }
        description.id.clone_from(&self.job.place.id);
        Ok((held, description))
    }
}

/// A namespace that is wanted for the container and that the running one shares with the node. Who wants to be apart must not
/// run otherwise.
fn not_apart(wanted: Unshare, running: Unshare) -> Option<&'static str> {
    [
        (wanted.net && !running.net, "network"),
        (wanted.ipc && !running.ipc, "IPC"),
        (wanted.uts && !running.uts, "UTS"),
    ]
    .into_iter()
    .find_map(|(missing, kind)| missing.then_some(kind))
}

/// Options that ask for something else than what runs.
fn without_effect(request: &Request, running: &Description) -> Vec<&'static str> {
    let differs = |asked: Option<bool>, is: bool| asked.is_some_and(|asked| asked != is);
    let switch = |asked: Option<bool>, on, off| if asked == Some(true) { on } else { off };
    [
        (!request.mounts.is_empty(), "--container-mounts"),
        (!request.devices.is_empty(), "--container-devices"),
        (
            differs(request.writable, running.writable),
            switch(request.writable, "--container-writable", "--container-readonly"),
        ),
        (
            differs(request.remap_root, running.remap_root),
            switch(
                request.remap_root,
                "--container-remap-root",
                "--no-container-remap-root",
            ),
        ),
        (
            differs(request.mount_home, running.mount_home),
            switch(
                request.mount_home,
                "--container-mount-home",
                "--no-container-mount-home",
            ),
        ),
        (request.entrypoint == Some(true), "--container-entrypoint"),
        (
            request.gpus.is_some(),
            switch(request.gpus, "--container-gpus", "--no-container-gpus"),
        ),
        (request.rocm == Some(true), "--container-rocm"),
    ]
    .into_iter()
    .filter_map(|(asked, option)| asked.then_some(option))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::Record;

    fn running() -> Description {
        Description {
            id: "pyxis_x".into(),
            record: Record {
                image: "image".into(),
                manifest: None,
                config: Default::default(),
                layers: Vec::new(),
                user_marks: false,
            },
            gid: 1,
            remap_root: true,
            writable: true,
            mount_home: false,
            unshare: Unshare::default(),
            env: Vec::new(),
            entrypoint: Vec::new(),
            data: Vec::new(),
            part: None,
        }
    }

    #[test]
    fn what_is_so_already_needs_no_word() {
        let same = Request {
            image: Some("other".into()),
            writable: Some(true),
            remap_root: Some(true),
            mount_home: Some(false),
            entrypoint: Some(false),
            workdir: Some("/".into()),
            env: vec!["A".into()],
            ..Request::default()
        };
        assert_eq!(without_effect(&same, &running()), Vec::<&str>::new());
        assert_eq!(without_effect(&Request::default(), &running()), Vec::<&str>::new());
    }

    #[test]
    fn what_has_no_effect_is_named() {
        let other = Request {
            mounts: crate::request::mount_syntax::parse_mounts("/a").unwrap(),
            devices: crate::devices::cdi::name::parse_names("a.b/c=d").unwrap(),
            writable: Some(false),
            remap_root: Some(false),
            mount_home: Some(true),
            entrypoint: Some(true),
            gpus: Some(true),
            rocm: Some(true),
            ..Request::default()
        };
        let named = [
            "--container-mounts",
            "--container-devices",
            "--container-readonly",
            "--no-container-remap-root",
            "--container-mount-home",
            "--container-entrypoint",
            "--container-gpus",
            "--container-rocm",
        ];
        assert_eq!(without_effect(&other, &running()), named);
    }

    #[test]
    fn who_wants_to_be_apart_is_not_brought_together() {
        let none = Unshare::default();
        let (net, ipc) = (Unshare { net: true, ..none }, Unshare { ipc: true, ..none });
        assert_eq!(not_apart(none, net), None);
        assert_eq!(not_apart(net, net), None);
        assert_eq!(not_apart(net, ipc), Some("network"));
        assert_eq!(not_apart(ipc, net), Some("IPC"));
        assert_eq!(not_apart(Unshare { uts: true, ..none }, net), Some("UTS"));
    }
}
