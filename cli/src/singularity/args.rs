//! The command line under the names `singularity` and `apptainer`.
#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Run containers without a daemon and without root
#[derive(Debug, Parser)]
#[command(version)]
pub struct Args {
    /// Print errors only
    #[arg(short, long, global = true)]
    pub quiet: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a command in a container
    Exec(Exec),
    /// Show what an image says of itself
    Inspect(Inspect),
    /// Write an image of a registry, or of docker or podman, to a SIF file
    Pull(Pull),
    /// Run what the image is for
    Run(Run),
    /// Run a shell in a container
    Shell(Shell),
    /// Check the OpenPGP signatures of a SIF file
    Verify(crate::args::Verify),
}

#[derive(Debug, clap::Args)]
pub struct Exec {
    #[command(flatten)]
    pub how: How,
    /// .sif or .sqsh file, directory, docker://IMAGE and the like; the command and its arguments
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, allow_hyphen_values = true, value_names = ["IMAGE", "COMMAND"])]
    pub words: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub struct Run {
    #[command(flatten)]
    pub how: How,
    /// .sif or .sqsh file, directory, docker://IMAGE and the like; arguments of what the image runs
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_names = ["IMAGE", "ARGUMENT"])]
    pub words: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub struct Shell {
    #[command(flatten)]
    pub how: How,
    /// The shell [default: bash, or sh]
    #[arg(short, long, value_name = "PATH", env = "APPTAINER_SHELL")]
    pub shell: Option<String>,
    /// .sif or .sqsh file, directory, docker://IMAGE and the like; arguments of the shell
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_names = ["IMAGE", "ARGUMENT"])]
    pub words: Vec<String>,
}

/// How a container is made.
#[derive(Debug, Default, clap::Args)]
pub struct How {
    /// Show files and directories of this machine in the container
    #[arg(
        short = 'B',
        long = "bind",
        value_name = "SRC[:DST[:OPTIONS]]",
        value_delimiter = ','
    )]
    pub binds: Vec<String>,
    /// Take no variables of this machine along
    #[arg(short = 'e', long)]
    pub cleanenv: bool,
    /// Show no files of this machine that were not asked for
    #[arg(short, long)]
    pub contain: bool,
    /// The same, without variables, and with IPC of its own
    #[arg(short = 'C', long)]
    pub containall: bool,
    /// Set a variable
    #[arg(long = "env", value_name = "NAME=VALUE", value_delimiter = ',')]
    pub variables: Vec<String>,
    /// Set the variables of a file: NAME=VALUE in each line
    #[arg(long, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// Be root inside
    #[arg(short, long)]
    pub fakeroot: bool,
    /// Home directory: one of this machine, and where it is inside
    #[arg(short = 'H', long, value_name = "SRC[:DST]")]
    pub home: Option<String>,
    /// IPC of its own
    #[arg(short, long)]
    pub ipc: bool,
    /// A network of its own, with nothing but the loopback device
    #[arg(short, long)]
    pub net: bool,
    /// Show no home directory
    #[arg(long)]
    pub no_home: bool,
    /// Show the NVIDIA GPUs, and their driver's libraries
    #[arg(long)]
    pub nv: bool,
    /// Working directory inside
    #[arg(long, alias = "cwd", value_name = "PATH")]
    pub pwd: Option<PathBuf>,
    /// Show the AMD GPUs
    #[arg(long)]
    pub rocm: bool,
    /// Namespaces of the user: every container here has them
    #[arg(short, long)]
    pub userns: bool,
    /// A host name of its own
    #[arg(long)]
    pub uts: bool,
    /// Not known here: see the error
    #[arg(short, long)]
    pub writable: bool,
    /// What is written to the root file system is in memory, and gone afterwards
    #[arg(long)]
    pub writable_tmpfs: bool,
}

#[derive(Debug, clap::Args)]
pub struct Inspect {
    /// The labels; this is what is shown when nothing is asked for
    #[arg(short, long)]
    pub labels: bool,
    /// The definition file
    #[arg(short, long)]
    pub deffile: bool,
    /// The scripts of the environment
    #[arg(short, long)]
    pub environment: bool,
    /// The runscript
    #[arg(short, long)]
    pub runscript: bool,
    /// Print JSON
    #[arg(short, long)]
    pub json: bool,
    /// .sif or .sqsh file, or directory
    pub image: String,
}

#[derive(Debug, clap::Args)]
pub struct Pull {
    /// Replace an existing file
    #[arg(short = 'F', long)]
    pub force: bool,
    /// Architecture of the image [default: this machine's]
    #[arg(long)]
    pub arch: Option<String>,
    /// Directory of the file
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// The file [default: IMAGE_TAG.sif], and docker://IMAGE[:TAG] or the like
    #[arg(required = true, num_args = 1..=2, value_names = ["FILE", "URI"])]
    pub what: Vec<String>,
}
