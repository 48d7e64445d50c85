//! What a user may say in files of his own and in variables of his job: what he could also say with an option, or what
//! restricts only himself.
#![forbid(unsafe_code)]

use super::enroot::{Owner, Setting, switch};
use super::keys::{KEYS, Key, Who};
use super::site::pid_warning;
use super::words::{Facts, Word};
use super::{ContainerConfig, NamespaceName};
use crate::error::Result;
use std::collections::BTreeMap;

/// A user's choices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Choices {
    writable: Option<bool>,
    remap_root: Option<bool>,
    mount_home: Option<bool>,
    restrict_dev: bool,
    unshare: Vec<NamespaceName>,
    /// Lines for the user.
    pub warnings: Vec<String>,
}

/// The settings that variables of the job make. Only those that anyone may set count; the others are not even a mistake,
/// since many a profile sets them.
pub fn of_variables(env: &BTreeMap<String, String>) -> Vec<Setting> {
    let mine = KEYS.iter().filter(|spec| spec.who == Who::Anyone);
    let said = mine.filter_map(|spec| Some((spec, env.get(spec.name)?)));
    said.map(|(spec, text)| Setting {
        spec,
        value: Word::literal(text),
        place: "the job's environment".to_owned(),
        owner: Owner::User,
    })
    .collect()
}

impl Choices {
    /// Takes the settings in, in order.
    pub fn of(settings: &[Setting], job: &Facts) -> Result<Self> {
        let mut choices = Choices::default();
        for setting in settings.iter().filter(|setting| setting.spec.key != Key::Meaningless) {
            if setting.spec.who == Who::Site {
                let (place, name) = (&setting.place, setting.spec.name);
                let warning = format!("{place}: only the site's files can set {name}, ignoring");
                choices.warnings.push(warning);
            } else if let Some(text) = setting.expand(job)? {
                choices.take(setting, &text).map_err(|reason| setting.wrong(&reason))?;
            }
        }
        Ok(choices)
    }

    fn take(&mut self, setting: &Setting, text: &str) -> std::result::Result<(), String> {
        match setting.spec.key {
            Key::RootfsWritable => self.writable = Some(switch(text)?),
            Key::RemapRoot => self.remap_root = Some(switch(text)?),
            Key::MountHome => self.mount_home = Some(switch(text)?),
            Key::RestrictDev => self.restrict_dev = switch(text)?,
            Key::UnshareNet => self.unshare(NamespaceName::Net, switch(text)?),
            Key::UnshareIpc => self.unshare(NamespaceName::Ipc, switch(text)?),
            Key::UnshareUts => self.unshare(NamespaceName::Uts, switch(text)?),
            Key::UnsharePid => self.warnings.extend(pid_warning(setting, text)?),
            // The directory of the user's files is known by now.
            _ => {}
        }
        Ok(())
    }

    fn unshare(&mut self, name: NamespaceName, on: bool) {
        self.unshare.retain(|known| *known != name);
        if on {
            self.unshare.push(name);
        }
    }

    /// Puts the choices over the site's defaults. Restrictions of the site stay.
    pub fn apply(&self, site: &mut ContainerConfig) {
        site.writable = self.writable.unwrap_or(site.writable);
        site.remap_root = self.remap_root.unwrap_or(site.remap_root);
        site.mount_home = self.mount_home.unwrap_or(site.mount_home);
        site.restrict_dev |= self.restrict_dev;
        for name in &self.unshare {
            if !site.unshare.contains(name) {
                site.unshare.push(*name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::enroot;
    use super::*;

    fn job() -> Facts {
        Facts {
            variables: [("WANTED".to_owned(), "yes".to_owned())].into(),
            uid: 1000,
            ..Facts::default()
        }
    }

    fn apply(settings: &[Setting], site: &ContainerConfig) -> (ContainerConfig, Vec<String>) {
        let choices = Choices::of(settings, &job()).unwrap();
        let mut site = site.clone();
        choices.apply(&mut site);
        (site, choices.warnings)
    }

    /// Every key, said by a file of the user and by a variable, over a site that says nothing and over one that has all
    /// restrictions. What changes is listed; nothing else may.
    #[test]
    fn each_key_from_each_source() {
        let open = ContainerConfig::default();
        let closed = ContainerConfig {
            restrict_dev: true,
            unshare: vec![NamespaceName::Net, NamespaceName::Ipc, NamespaceName::Uts],
            ..open.clone()
        };
        let unshared = |name| ContainerConfig {
            unshare: vec![name],
            ..open.clone()
        };
        for spec in KEYS {
            let expected = match spec.key {
                Key::RootfsWritable => ContainerConfig {
                    writable: true,
                    ..open.clone()
                },
                Key::RemapRoot => ContainerConfig {
                    remap_root: true,
                    ..open.clone()
                },
                Key::MountHome => ContainerConfig {
                    mount_home: true,
                    ..open.clone()
                },
                Key::RestrictDev => ContainerConfig {
                    restrict_dev: true,
                    ..open.clone()
                },
                Key::UnshareNet => unshared(NamespaceName::Net),
                Key::UnshareIpc => unshared(NamespaceName::Ipc),
                Key::UnshareUts => unshared(NamespaceName::Uts),
                _ => open.clone(),
            };
            let file = |value: &str| {
                let text = format!("{} {value}\n", spec.name);
                enroot::parse(&text, "x.conf", Owner::User).unwrap().settings
            };
            let variable = |value: &str| of_variables(&[(spec.name.to_owned(), value.to_owned())].into());
            for said in [file("yes"), file("${WANTED}"), variable("yes")] {
                assert_eq!(apply(&said, &open).0, expected, "{}", spec.name);
            }
            for said in [file("no"), variable("no"), variable("")] {
                assert_eq!(apply(&said, &open).0, open, "{}", spec.name);
                assert_eq!(apply(&said, &closed).0, closed, "{}", spec.name);
            }
            let warnings = apply(&file("no"), &open).1;
            assert_eq!(
                warnings.is_empty(),
                spec.who == Who::Anyone,
                "{}: {warnings:?}",
                spec.name
            );
            assert!(apply(&variable("no"), &open).1.is_empty(), "{}", spec.name);
        }
    }

    #[test]
    fn variables_are_taken_as_they_are() {
        let said = of_variables(&[("ENROOT_REMAP_ROOT".to_owned(), "$(id -u)".to_owned())].into());
        let error = Choices::of(&said, &job()).unwrap_err().to_string();
        assert_eq!(
            error,
            "the job's environment: ENROOT_REMAP_ROOT: \"$(id -u)\" is not a switch: take yes or no"
        );
    }

    #[test]
    fn the_site_yields_where_an_option_would_win_too() {
        let site = ContainerConfig {
            writable: true,
            remap_root: true,
            mount_home: true,
            ..ContainerConfig::default()
        };
        let text = "ENROOT_ROOTFS_WRITABLE no\nENROOT_REMAP_ROOT n\nENROOT_MOUNT_HOME f\n";
        let said = enroot::parse(text, "x", Owner::User).unwrap().settings;
        assert_eq!(apply(&said, &site).0, ContainerConfig::default());
    }
}
