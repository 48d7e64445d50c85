//! What users may write, what they may not, and what they are told.

use super::*;
use crate::mount::MountSource;
use proptest::prelude::*;
use std::collections::HashMap;

fn find(name: &str) -> &'static OptionSpec {
    OPTIONS.iter().find(|option| option.name == name).unwrap()
}

/// `name=value` or `name`, as on a command line.
fn uses(words: &[&str]) -> Vec<Use> {
    words
        .iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) => Use {
                option: find(name),
                argument: Some(value.to_owned()),
            },
            None => Use {
                option: find(word),
                argument: None,
            },
        })
        .collect()
}

fn merge(words: &[&str], variables: &[(&str, &str)]) -> Result<Merged> {
    let variables: HashMap<&str, &str> = variables.iter().copied().collect();
    let lookup = |name: &str| variables.get(name).map(|value| (*value).to_owned());
    Request::merge(&uses(words), lookup, |_| Ok(()))
}

fn request(words: &[&str], variables: &[(&str, &str)]) -> Request {
    match merge(words, variables).unwrap() {
        Merged::Container(request) => *request,
        Merged::Nothing { warnings } => panic!("no container: {warnings:?}"),
    }
}

fn refusal(words: &[&str], variables: &[(&str, &str)]) -> String {
    merge(words, variables).unwrap_err().to_string()
}

#[test]
fn all_options_at_once() {
    let full = request(
        &[
            "container-image=debian:12",
            "container-mounts=/a:/b:ro,/c",
            "container-mounts=tmpfs:/d",
            "container-workdir=/b",
            "container-name=me:no_exec",
            "container-save=./out.sqsh",
            "container-mount-home",
            "no-container-remap-root",
            "container-entrypoint",
            "container-entrypoint-log",
            "container-readonly",
            "container-env=A,B,A",
            "container-unshare=net,uts",
            "container-devices=a.b/c=0,a.b/c=1",
            "container-devices=a.b/c=1,d.e/f=all",
        ],
        &[],
    );
    assert_eq!(full.image.as_deref(), Some("debian:12"));
    assert_eq!(full.mounts.len(), 3);
    assert_eq!(full.mounts[2].source, MountSource::Tmpfs);
    assert_eq!(full.workdir, Some(PathBuf::from("/b")));
    assert_eq!(
        full.name,
        Some(ContainerName {
            name: "me".into(),
            mode: NameMode::NoExec
        })
    );
    assert_eq!(full.save, Some(PathBuf::from("./out.sqsh")));
    assert_eq!(full.mount_home, Some(true));
    assert_eq!(full.remap_root, Some(false));
    assert_eq!(full.entrypoint, Some(true));
    assert_eq!(full.entrypoint_log, Some(true));
    assert_eq!(full.writable, Some(false));
    assert_eq!(full.env, ["A", "B"]);
    assert_eq!(
        full.unshare,
        Unshare {
            net: true,
            ipc: false,
            uts: true
        }
    );
    let devices: Vec<String> = full.devices.iter().map(ToString::to_string).collect();
    assert_eq!(devices, ["a.b/c=0", "a.b/c=1", "d.e/f=all"]);
    let json = serde_json::to_string(&full).unwrap();
    assert_eq!(serde_json::from_str::<Request>(&json).unwrap(), full);
}

#[test]
fn nothing_said_is_nothing_decided() {
    let bare = request(&["container-image=x"], &[]);
    assert_eq!(
        bare,
        Request {
            image: Some("x".into()),
            ..Request::default()
        }
    );
    assert_eq!(merge(&[], &[]).unwrap(), Merged::Nothing { warnings: vec![] });
}

#[test]
fn the_same_value_twice_is_one() {
    let twice = request(
        &[
            "container-image=x",
            "container-image=x",
            "container-writable",
            "container-writable",
            "container-mounts=/a",
            "container-mounts=/a",
        ],
        &[],
    );
    assert_eq!(twice.mounts.len(), 1);
    assert_eq!(twice.writable, Some(true));
}

#[test]
fn every_variable_says_what_its_option_says() {
    for option in OPTIONS {
        let Some(variable) = option.variable else { continue };
        let (argument, value) = match option.key {
            Key::Image => ("container-image=i".to_owned(), "i"),
            Key::Mounts => ("container-mounts=/a:/b".to_owned(), "/a:/b"),
            Key::Unshare => ("container-unshare=ipc".to_owned(), "ipc"),
            Key::Devices => ("container-devices=a.b/c=0".to_owned(), "a.b/c=0"),
            _ if matches!(option.kind, Kind::Switch(_)) => (option.name.to_owned(), "1"),
            _ => (format!("{}=word", option.name), "word"),
        };
        let image = if option.key == Key::Image {
            vec![]
        } else {
            vec!["container-image=i"]
        };
        let by_option = request(&[image.clone(), vec![argument.as_str()]].concat(), &[]);
        let by_variable = request(&image, &[(variable, value)]);
        assert_eq!(by_option, by_variable, "{variable}");
    }
}

#[test]
fn boolean_variables() {
    for (text, on) in [
        ("1", true),
        ("0", false),
        ("true", true),
        ("FALSE", false),
        ("Yes", true),
        ("no", false),
    ] {
        let request = request(&["container-image=x"], &[("PYXIS_CONTAINER_REMAP_ROOT", text)]);
        assert_eq!(request.remap_root, Some(on), "{text}");
    }
    let read_only = request(&["container-image=x"], &[("PYXIS_CONTAINER_READONLY", "y")]);
    assert_eq!(read_only.writable, Some(false));
    let writable = request(&["container-image=x"], &[("PYXIS_CONTAINER_READONLY", "n")]);
    assert_eq!(writable.writable, Some(true));
}

#[test]
fn the_command_line_wins_over_the_environment() {
    let variables = [
        ("PYXIS_CONTAINER_IMAGE", "from-variable"),
        ("PYXIS_CONTAINER_WRITABLE", "not a boolean, and not looked at"),
        ("PYXIS_CONTAINER_MOUNTS", "/from/variable"),
    ];
    let words = [
        "container-image=from-option",
        "container-readonly",
        "container-mounts=/from/option",
    ];
    let merged = request(&words, &variables);
    assert_eq!(merged.image.as_deref(), Some("from-option"));
    assert_eq!(merged.writable, Some(false));
    assert_eq!(merged.mounts.len(), 1);
}

#[test]
fn options_without_a_container_are_ignored_with_a_warning() {
    let Merged::Nothing { warnings } = merge(&["container-workdir=/a", "container-writable"], &[]).unwrap() else {
        panic!("no container was asked for");
    };
    assert_eq!(
        warnings,
        [
            "ignoring --container-workdir because neither --container-image nor --container-name is set",
            "ignoring --container-writable because neither --container-image nor --container-name is set",
        ]
    );
    for option in OPTIONS
        .iter()
        .filter(|option| !matches!(option.key, Key::Image | Key::Name))
    {
        let word = match option.kind {
            Kind::Switch(_) => option.name.to_owned(),
            Kind::Text(_) if option.key == Key::Unshare => format!("{}=net", option.name),
            Kind::Text(_) if option.key == Key::Devices => format!("{}=vendor.com/class=name", option.name),
            Kind::Text(_) => format!("{}=/word", option.name).replace("env=/", "env="),
        };
        let expected = format!(
            "ignoring --{} because neither --container-image nor --container-name is set",
            option.name
        );
        let warnings = vec![expected];
        assert_eq!(merge(&[&word], &[]).unwrap(), Merged::Nothing { warnings });
    }
    assert!(matches!(
        merge(&["container-name=n"], &[]).unwrap(),
        Merged::Container(_)
    ));
    // A variable may be set for a whole session: it is not worth a line at each plain srun.
    let quiet = merge(&[], &[("PYXIS_CONTAINER_WORKDIR", "/a")]).unwrap();
    assert_eq!(quiet, Merged::Nothing { warnings: vec![] });
}

#[test]
fn what_is_refused_and_why() {
    let long = format!("container-name={}", "n".repeat(256));
    let mounts = format!("container-mounts={}", ["/a"; 1001].join(","));
    let cases: &[(&[&str], &str)] = &[
        (&["container-image="], "--container-image has an empty argument"),
        (
            &["container-image=a", "container-image=b"],
            "--container-image specified multiple times",
        ),
        (
            &["container-workdir=/a", "container-workdir=/b"],
            "--container-workdir specified multiple times",
        ),
        (&["container-mounts="], "--container-mounts has an empty argument"),
        (
            &["container-mounts=devpts:/dev/pts"],
            "--container-mounts: mount source \"devpts\"",
        ),
        (&["container-mounts=/a:b"], "--container-mounts: mount target \"b\""),
        (&[&mounts], "--container-mounts: more than 1000 mounts"),
        (&["container-workdir="], "--container-workdir has an empty argument"),
        (&["container-name="], "--container-name has an empty argument"),
        (&["container-name=a/b"], "holds a slash"),
        (&["container-name=:exec"], "the name is empty"),
        (&["container-name=a:always"], "unknown mode \"always\""),
        (&["container-name=a:"], "unknown mode \"\""),
        (&[&long], "longer than"),
        (&["container-save="], "--container-save has an empty argument"),
        (&["container-save=dir/"], "ends with a slash"),
        (&["container-env="], "--container-env has an empty argument"),
        (&["container-env=A,,B"], "empty variable name"),
        (&["container-env=A,"], "empty variable name"),
        (&["container-env=,"], "empty variable name"),
        (&["container-env=A=1"], "not the name of a variable"),
        (&["container-unshare="], "--container-unshare has an empty argument"),
        (&["container-unshare=pid"], "unknown namespace \"pid\""),
        (&["container-unshare=net,"], "unknown namespace \"\""),
        (
            &["container-writable", "container-readonly"],
            "--container-readonly contradicts --container-writable",
        ),
        (
            &["no-container-mount-home", "container-mount-home"],
            "--container-mount-home contradicts --no-container-mount-home",
        ),
        (&["container-remap-root", "no-container-remap-root"], "contradicts"),
        (&["container-entrypoint", "no-container-entrypoint"], "contradicts"),
    ];
    for (words, reason) in cases {
        let told = refusal(words, &[]);
        assert!(told.contains(reason), "{words:?}: {told}");
        assert!(!told.contains('\n'), "{words:?}");
        // An image does not make a bad value good.
        if !words.iter().any(|word| word.starts_with("container-image")) {
            let told = refusal(&[&["container-image=x"], *words].concat(), &[]);
            assert!(told.contains(reason), "{words:?}: {told}");
        }
    }
}

#[test]
fn bad_variables_are_refused_by_their_name() {
    for (variable, value, reason) in [
        (
            "PYXIS_CONTAINER_IMAGE",
            "",
            "PYXIS_CONTAINER_IMAGE has an empty argument",
        ),
        (
            "PYXIS_CONTAINER_WRITABLE",
            "maybe",
            "PYXIS_CONTAINER_WRITABLE: \"maybe\" is not a boolean",
        ),
        (
            "PYXIS_CONTAINER_MOUNT_HOME",
            "",
            "PYXIS_CONTAINER_MOUNT_HOME: \"\" is not a boolean",
        ),
        (
            "PYXIS_CONTAINER_UNSHARE",
            "user",
            "PYXIS_CONTAINER_UNSHARE: unknown namespace",
        ),
        (
            "PYXIS_CONTAINER_ENV",
            "A,,B",
            "PYXIS_CONTAINER_ENV: empty variable name",
        ),
    ] {
        let told = refusal(&[], &[(variable, value)]);
        assert!(told.contains(reason), "{variable}: {told}");
    }
    let told = refusal(
        &[],
        &[("PYXIS_CONTAINER_WRITABLE", "1"), ("PYXIS_CONTAINER_READONLY", "1")],
    );
    assert_eq!(told, "PYXIS_CONTAINER_READONLY contradicts PYXIS_CONTAINER_WRITABLE");
}

#[test]
fn the_images_form_is_judged_by_the_callers_grammar() {
    let refuse = |image: &str| Err(Error::Request(format!("{image} is no image")));
    let told = Request::merge(&uses(&["container-image=??"]), |_| None, refuse).unwrap_err();
    assert_eq!(told.to_string(), "?? is no image");
}

proptest! {
    #[test]
    fn no_word_makes_the_parsers_panic(index in 0..OPTIONS.len(), text in ".*", variable in ".*") {
        let one = Use { option: &OPTIONS[index], argument: Some(text) };
        let _ = Request::merge(&[one], |_| Some(variable.clone()), |_| Ok(()));
    }
}
