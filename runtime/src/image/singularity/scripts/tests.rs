use super::*;
use proptest::prelude::*;
use std::process::Command;

fn map(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    owned.collect()
}

fn script(name: &str, text: &str) -> Script {
    Script {
        name: name.to_owned(),
        text: text.to_owned(),
    }
}

fn told(text: &str, given: &[(&str, &str)]) -> Option<BTreeMap<String, String>> {
    environment(&[script("90-environment.sh", text)], &map(given))
}

/// What a shell that sources it leaves.
fn run(shell: &str, text: &str, given: &[(&str, &str)]) -> BTreeMap<String, String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("script");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(shell);
    command
        .args(["-c", "unset PS1; . \"$1\"; exec /usr/bin/env -0", shell])
        .arg(&file);
    let output = command.env_clear().envs(given.iter().copied()).output().unwrap();
    assert!(output.stderr.is_empty(), "{shell}: {text}: {output:?}");
    let left = String::from_utf8(output.stdout).unwrap();
    let left = left.split_terminator('\0').map(|entry| entry.split_once('=').unwrap());
    let left = left.filter(|(name, _)| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name));
    left.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

const GIVEN: [(&str, &str); 4] = [("PATH", "/bin"), ("A", "a"), ("B", "two words"), ("EMPTY", "")];

/// Told, and as every shell here has it.
fn agrees(text: &str) -> BTreeMap<String, String> {
    let told = told(text, &GIVEN).unwrap_or_else(|| panic!("not told: {text}"));
    for shell in ["/bin/dash", "/bin/bash"] {
        assert_eq!(told, run(shell, text, &GIVEN), "{shell}: {text}");
    }
    told
}

#[test]
fn scripts_that_assign_are_told_as_shells_run_them() {
    let assign = "#!/bin/sh\n\n# text's \\\n\texport COLOUR=blue\nexport PATH=/opt/bin:$PATH\nHIDDEN=x\nA=changed\n\
        export LATER\nLATER=now\nexport NEVER\nexport W=\"in $B; ${A}\" \nexport Q='$A `x` \"'ab\"c\"$A\n";
    let found = agrees(assign);
    assert_eq!(
        found,
        map(&[
            ("A", "changed"),
            ("B", "two words"),
            ("COLOUR", "blue"),
            ("EMPTY", ""),
            ("LATER", "now"),
            ("PATH", "/opt/bin:/bin"),
            ("Q", "$A `x` \"abcchanged"),
            ("W", "in two words; changed"),
        ])
    );
    let docker = "export A=\"${A:-\"red\"}\"\nexport N=\"${N:-\"two words\"}\"\nexport EMPTY=\"${EMPTY:-\"full\"}\"\nexport M=${M:-m}\n";
    let found = agrees(docker);
    assert_eq!(
        [&found["A"], &found["N"], &found["EMPTY"], &found["M"]],
        ["a", "two words", "full", "m"]
    );
    agrees("unset A \\\n\tNONE \\\n  B\nexport PATH");
    agrees(
        "if [ -z \"${LD_LIBRARY_PATH:-}\" ]; then\n  LD_LIBRARY_PATH=\"/x\"\nelse\n  LD_LIBRARY_PATH=\"$LD_LIBRARY_PATH:/x\"\nfi\nexport LD_LIBRARY_PATH",
    );
    agrees("if test -n \"$A\"; then\n export Y=1\nelif [ -n \"$B\" ]; then\n export Y=2\nelse\n export Y=3\nfi\n");
    agrees(
        "if test -n \"$NO\"; then\n if test -d \"/\"; then\n echo x\n else\n exit 1\n fi\nelif [ -n \"$B\" ]; then\n export Y=2\nfi\n",
    );
}

#[test]
fn all_of_apptainers_own_scripts_are_told() {
    let scripts = [
        script("01-base.sh", "#!/bin/sh\n#\n"),
        script("10-docker2singularity.sh", "#!/bin/sh\nexport PATH=\"/opt/bin:/bin\"\n"),
        script("90-environment.sh", "#!/bin/sh\n"),
        script("94-appsbase.sh", ""),
        script(
            "95-apps.sh",
            "if test -n \"${SINGULARITY_APPNAME:-}\"; then\n\n    # it's active\n    export SINGULARITY_APPNAME\n\n    if test -d \"/scif/apps/${SINGULARITY_APPNAME:-}/\"; then\n        \
             if [ -f \"/scif/apps/x\" ]; then\n            . \"/scif/apps/x\" \"$@\"\n\t\telif [ -f \"/y\" ]; then\n            . \"/y\"\n        fi\n    else\n        echo \"Could not: ${SINGULARITY_APPNAME}\"\n        exit 1\n    fi\nfi\n",
        ),
        script(
            "99-base.sh",
            "if [ -z \"${PS1:-}\" ]; then\n    PS1=\"Apptainer> \"\nfi\nexport LD_LIBRARY_PATH PS1\n",
        ),
        script("99-runtimevars.sh", "unset SING_USER_DEFINED_PATH\nexport PATH\n"),
    ];
    let path = "/opt/bin:/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin";
    let left = environment(&scripts, &map(&[("PS1", "mine")])).unwrap();
    assert_eq!(left, map(&[("PATH", path), ("PS1", "Apptainer> ")]));
    assert_eq!(environment(&scripts, &map(&[("SINGULARITY_APPNAME", "x")])), None);
    assert_eq!(environment(&scripts, &map(&[("BASH_ENV", "/x")])), None);
    for names in [
        &["base.sh"][..],
        &["90-Base.sh"],
        &["90-base.sh", "90-b.sh"],
        &["91-a.sh", "90-a.sh"],
    ] {
        let scripts: Vec<_> = names.iter().map(|name| script(name, "")).collect();
        assert_eq!(environment(&scripts, &map(&[])), None, "{names:?}");
    }
}

#[test]
fn what_only_a_shell_knows_is_not_told() {
    let texts = [
        "echo x",
        "A=$(id)",
        "A=`id`",
        "export A=\"`id`\"",
        "A=~/x",
        "export A=*",
        "A=$B",
        "export A=a\\ b",
        "A=\"a\\nb\"",
        "A=1 B=2",
        "export A=1 B=$A",
        "A=1 true",
        "A=1; B=2",
        "A=1 # x",
        "A=\"two\nlines\"",
        "A='two\nlines'",
        "export -n A",
        "unset -f A",
        "A+=x",
        "A[0]=x",
        "IFS=:",
        "export A=$RANDOM",
        "export A=$$",
        "export A=$1",
        "export A=\"$@\"",
        "A=${B#x}",
        "A=${B:=x}",
        "A=${#B}",
        "A=\"${N:-$B}\"",
        "A=\"${N:-'x'}\"",
        "set -e",
        ". /etc/profile",
        "exit 0",
        "if true; then\nfi",
        "if [ -d \"/\" ]; then\nA=1\nfi",
        "if [ -z \"$A\" ] || true; then\nA=1\nfi",
        "if [ -n \"$NO\" ]; then\ncat <<fi\nfi\nA=2\nfi",
        "if [ -n \"$NO\" ]; then\nx; fi",
        "if [ -n \"$NO\" ]; then\necho \"\nfi\n\"\nfi",
        "if [ -z \"$NO\" ]; then\nA=1",
        "fi",
        "else",
        "A=1\r",
        "A=a\\\nb'\\\n'",
        "export A=é*",
        "if [ -z \"$NO\" ]; then\nA=1\nelse if true; then\nA=2\nfi\nfi",
        "if [ -z \"$NO\" ]; then\nA=1\nelif [ -f x ]; then if true; then\nB=3\nfi\nfi",
        "case $A in\nesac",
        "f() {\nA=1\n}",
        "alias x=y",
        "A=\u{1}",
        "export A=\"$PWD\"",
    ];
    for text in texts {
        assert_eq!(told(text, &GIVEN), None, "{text}");
    }
    for grows in [
        "export A=$A$A$A$A$A$A$A$A\n".repeat(12),
        format!("export N=\"{}\"\n", "$A".repeat(2 << 20)),
    ] {
        assert_eq!(told(&grows, &GIVEN), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    /// Whatever is told of scripts of these pieces, shells agree with.
    #[test]
    fn shells_agree(pieces in proptest::collection::vec(proptest::sample::select(vec![
        "A", "B", "NO", "=", "\"", "'", "$", "${", "}", ":-", "x", " ", "\n", "export ", "unset ", "#", "/bin:", "-", "[ -n \"$NO\" ]; then\n",
        "if [ -z \"$NO\" ]; then\n", "if [ -n \"$NO\" ]; then\n", "\nelse\n", "\nfi\n", "export A=", "export C=\"$B\"\n", "D=${B}\n", "\\\n",
    ]), 0..24)) {
        let text = pieces.concat();
        if let Some(told) = told(&text, &GIVEN) {
            for shell in ["/bin/dash", "/bin/bash"] {
                prop_assert_eq!(&told, &run(shell, &text, &GIVEN), "{}: {}", shell, &text);
            }
        }
    }
}
