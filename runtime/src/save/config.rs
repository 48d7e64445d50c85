//! What an image's configuration says, kept in the saved file. In the form that enroot gives it: `/etc/environment` with
//! the variables, `/etc/rc` that enters the working directory and executes entrypoint and command. In Singularity's: files
//! below `/.singularity.d`.
//!
//! A layered image's own `/etc/environment` has no effect in a container, but in a squashfs file it has: so it is
//! replaced, unless it is a change that was made in the container, which wins. An `/etc/rc` that is there stays.
#![forbid(unsafe_code)]

use super::merge::Merged;
use crate::error::Result;
use crate::image::ImageConfig;
use crate::image::singularity::DIRECTORY;
use crate::pack::squashfs::{Attributes, Body, NodeId, Writer};

/// An environment file that is larger is cut.
pub const FILE_MAX: usize = 1 << 20;

/// Adds the files to the tree.
pub fn keep(image: &ImageConfig, merged: &mut Merged<'_>, writer: &mut Writer<'_>) -> Result<()> {
    if image.env.is_empty() && rc(image).is_empty() {
        return Ok(());
    }
    let Some(etc) = directory(merged, NodeId::ROOT, b"etc")? else {
        return Ok(());
    };
    if !image.env.is_empty() {
        let own = merged.environment.take().unwrap_or_default();
        let variables = environment(&image.env, &own);
        add(merged, writer, etc, b"environment", 0o644, &variables)?;
    }
    let rc = rc(image);
    if !rc.is_empty() && merged.tree.child(etc, b"rc").is_none() {
        add(merged, writer, etc, b"rc", 0o755, rc.as_bytes())?;
    }
    Ok(())
}

/// Adds the files of an image that was built by Singularity. What is there already is an image of its own.
pub fn keep_as_singularity_does(image: &ImageConfig, merged: &mut Merged<'_>, writer: &mut Writer<'_>) -> Result<()> {
    if merged.tree.child(NodeId::ROOT, DIRECTORY.as_bytes()).is_some() {
        return Ok(());
    }
    let Some(top) = directory(merged, NodeId::ROOT, DIRECTORY.as_bytes())? else {
        return Ok(());
    };
    if let Some(env) = directory(merged, top, b"env")? {
        let script = exports(&image.env);
        add(
            merged,
            writer,
            env,
            b"10-docker2singularity.sh",
            0o755,
            script.as_bytes(),
        )?;
    }
    let labels = serde_json::to_vec_pretty(&image.labels).unwrap_or_default();
    add(merged, writer, top, b"labels.json", 0o644, &labels)?;
    let runscript = format!("#!/bin/sh\n{}", run(image));
    add(merged, writer, top, b"runscript", 0o755, runscript.as_bytes())
}

/// A directory, made if it is missing; nothing when that name is something else.
fn directory(merged: &mut Merged<'_>, parent: NodeId, name: &[u8]) -> Result<Option<NodeId>> {
    if let Some(found) = merged.tree.child(parent, name) {
        let node = merged.tree.get(found);
        let is_directory = node.is_some_and(|node| matches!(node.body, Body::Directory(_)));
        return Ok(is_directory.then_some(found));
    }
    let made = merged.tree.add(Attributes::with_mode(0o755), Body::directory())?;
    merged.tree.link(parent, name, made);
    Ok(Some(made))
}

fn add(
    merged: &mut Merged<'_>,
    writer: &mut Writer<'_>,
    directory: NodeId,
    name: &[u8],
    mode: u16,
    bytes: &[u8],
) -> Result<()> {
    let replaced = merged
        .tree
        .child(directory, name)
        .and_then(|node| merged.tree.get(node));
    let attributes = match replaced {
        Some(node) if matches!(node.body, Body::Directory(_)) => return Ok(()),
        Some(node) => Attributes {
            mode,
            ..node.attributes
        },
        None => Attributes::with_mode(mode),
    };
    writer.begin_file();
    writer.write(bytes)?;
    let content = writer.end_file()?;
    let node = merged.tree.add(attributes, Body::File(Some(content)))?;
    merged.tree.link(directory, name, node);
    Ok(())
}

/// The image's variables, then the lines that were there, which win: later lines do, but the name is not repeated.
fn environment(image: &[String], own: &[u8]) -> Vec<u8> {
    let name = |line: &[u8]| line.split(|byte| *byte == b'=').next().unwrap_or_default().to_vec();
    let taken: Vec<Vec<u8>> = own.split(|byte| *byte == b'\n').map(name).collect();
    let mut bytes = Vec::new();
    // A line cannot hold a value of several lines.
    let lines = image.iter().map(String::as_bytes).filter(|line| !line.contains(&b'\n'));
    for line in lines.filter(|line| line.contains(&b'=') && !taken.contains(&name(line))) {
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
    }
    bytes.extend_from_slice(own);
    bytes
}

/// A shell script, run with the command's words: without any the image's own command is executed.
fn rc(image: &ImageConfig) -> String {
    if image.entrypoint.is_empty() && image.cmd.is_empty() && image.working_dir.is_empty() {
        return String::new();
    }
    let mut script = String::new();
    if !image.working_dir.is_empty() {
        let directory = quoted(&image.working_dir);
        script.push_str(&format!("mkdir -p {directory} 2> /dev/null\n"));
        script.push_str(&format!("cd {directory} && unset OLDPWD || exit 1\n\n"));
    }
    script.push_str("if [ -s /etc/rc.local ]; then\n    . /etc/rc.local\nfi\n\n");
    script.push_str(&run(image));
    script
}

/// The lines of a script that execute what the image is for, with the words that the script was given in place of its own.
fn run(image: &ImageConfig) -> String {
    let words = |words: &[String]| {
        words
            .iter()
            .map(|word| format!(" {}", quoted(word)))
            .collect::<String>()
    };
    let (entrypoint, mut cmd) = (words(&image.entrypoint), words(&image.cmd));
    if entrypoint.is_empty() && cmd.is_empty() {
        cmd.push_str(" '/bin/sh'");
    }
    format!("if [ $# -gt 0 ]; then\n    exec{entrypoint} \"$@\"\nelse\n    exec{entrypoint}{cmd}\nfi\n")
}

/// A script that sets the variables, but for those that somebody has set before; the search path is the image's.
fn exports(variables: &[String]) -> String {
    let mut script = "#!/bin/sh\n".to_owned();
    for (name, value) in variables.iter().filter_map(|entry| entry.split_once('=')) {
        let is_name =
            |(at, byte): (usize, u8)| byte == b'_' || byte.is_ascii_alphabetic() || at > 0 && byte.is_ascii_digit();
        if name.is_empty() || !name.bytes().enumerate().all(is_name) {
            continue;
        }
        let mut text = String::with_capacity(value.len());
        for letter in value.chars() {
            if matches!(letter, '\\' | '"' | '$' | '`') {
                text.push('\\');
            }
            text.push(letter);
        }
        let line = match name {
            "PATH" => format!("export PATH=\"{text}\"\n"),
            name => format!("export {name}=\"${{{name}:-\"{text}\"}}\"\n"),
        };
        script.push_str(&line);
    }
    script
}

/// A word for the shell, whatever is in it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(entrypoint: &[&str], cmd: &[&str], working_dir: &str) -> ImageConfig {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        ImageConfig {
            entrypoint: words(entrypoint),
            cmd: words(cmd),
            working_dir: working_dir.to_owned(),
            ..ImageConfig::default()
        }
    }

    fn run(script: &str, arguments: &[&str]) -> String {
        let output = std::process::Command::new("sh")
            .args(["-c", script, "rc"])
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn the_script_runs_what_the_image_says() {
        let script = rc(&image(&["printf", "%s|"], &["it's", "a $HOME", "`id`"], "/"));
        assert_eq!(run(&script, &[]), "it's|a $HOME|`id`|");
        assert_eq!(run(&script, &["b c", "d"]), "b c|d|");
        assert_eq!(run(&rc(&image(&[], &["pwd"], "/usr")), &[]), "/usr\n");
        assert_eq!(run(&rc(&image(&[], &[], "/usr")), &["pwd"]), "/usr\n");
        assert_eq!(rc(&ImageConfig::default()), "");
    }

    #[test]
    fn variables_of_the_container_win() {
        let image = ["A=1", "B=two words", "C=x\ny", "D"].map(str::to_owned);
        assert_eq!(environment(&image, b""), b"A=1\nB=two words\n");
        assert_eq!(environment(&image, b"A=own\n# note\n"), b"B=two words\nA=own\n# note\n");
    }
}
