//! The command line under the name `enroot`.
#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Run containers without a daemon and without root
#[derive(Debug, Parser)]
#[command(name = "enroot", disable_version_flag = true)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a container of an image file
    Create(Create),
    /// Print the digest of an image in a registry
    Digest(Digest),
    /// Run a command in a running container
    Exec(Exec),
    /// Write a container to an image file
    Export(Export),
    /// Write an image of a registry, or of docker or podman, to an image file
    Import(Import),
    /// List containers
    List(List),
    /// Make a container of an image in a registry
    Load(Load),
    /// Remove containers
    Remove(Remove),
    /// Start a container, or an image file, and run a command in it
    Start(Start),
    /// Print the version
    Version,
}

#[derive(Debug, clap::Args)]
pub struct Create {
    /// Name of the container [default: that of the file]
    #[arg(short, long)]
    pub name: Option<String>,
    /// Replace a container of this name
    #[arg(short, long)]
    pub force: bool,
    /// The image file: .sqsh or .sif
    pub image: PathBuf,
}

#[derive(Debug, clap::Args)]
pub struct Digest {
    /// docker://[USER@][REGISTRY#]IMAGE[:TAG]
    pub uri: String,
}

#[derive(Debug, clap::Args)]
pub struct Exec {
    /// Set a variable; without a value, to what it is here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// A process of the container, as list --fancy shows it; the command and its arguments
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, allow_hyphen_values = true, value_names = ["PID", "COMMAND"])]
    pub words: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub struct Export {
    /// The file [default: NAME.sqsh]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace an existing file
    #[arg(short, long)]
    pub force: bool,
    /// The container
    pub name: String,
}

#[derive(Debug, clap::Args)]
pub struct Import {
    /// The file [default: made of the image's name]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Architecture of the image [default: this machine's]
    #[arg(short, long)]
    pub arch: Option<String>,
    /// Replace an existing file
    #[arg(short, long)]
    pub force: bool,
    /// docker://[USER@][REGISTRY#]IMAGE[:TAG], dockerd://IMAGE[:TAG] or podman://IMAGE[:TAG]
    pub uri: String,
}

#[derive(Debug, clap::Args)]
pub struct List {
    /// Also show what runs in them
    #[arg(short, long)]
    pub fancy: bool,
}

#[derive(Debug, clap::Args)]
pub struct Load {
    /// Name of the container [default: made of the image's name]
    #[arg(short, long)]
    pub name: Option<String>,
    /// Replace a container of this name
    #[arg(short, long)]
    pub force: bool,
    /// docker://[USER@][REGISTRY#]IMAGE[:TAG], dockerd://IMAGE[:TAG] or podman://IMAGE[:TAG]
    pub uri: String,
}

#[derive(Debug, clap::Args)]
pub struct Remove {
    /// Ask nothing
    #[arg(short, long)]
    pub force: bool,
    /// The containers
    #[arg(required = true)]
    pub names: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub struct Start {
    /// Shell script whose functions environ and mounts print variables and mounts
    #[arg(short, long, value_name = "FILE")]
    pub conf: Option<PathBuf>,
    /// Set a variable; without a value, to what it is here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Shell script to run in place of the image's own
    #[arg(long, value_name = "FILE")]
    pub rc: Option<PathBuf>,
    /// Be root inside
    #[arg(short, long)]
    pub root: bool,
    /// Show a file or directory of this machine in the container
    #[arg(short, long, value_name = "SRC:DST[:TYPE[:OPTIONS]]")]
    pub mount: Vec<String>,
    /// The root file system can be written
    #[arg(short = 'w', long)]
    pub rw: bool,
    /// A container, or the path of an image file; the command and its arguments [default: the image's]
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_names = ["NAME", "COMMAND"])]
    pub words: Vec<String>,
}
