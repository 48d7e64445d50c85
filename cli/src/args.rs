//! The command line.
#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Container images for Slurm nodes and users
#[derive(Debug, Parser)]
#[command(name = "pyxis", version, about)]
pub struct Args {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Default, clap::Args)]
pub struct Global {
    /// Image store [default: the node's store for root, else $XDG_DATA_HOME/pyxis or ~/.local/share/pyxis]
    #[arg(long, global = true, value_name = "DIR", env = "PYXIS_STORE")]
    pub store: Option<PathBuf>,
    /// Site configuration [default: /etc/pyxis/pyxis.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Import an image from a registry into the store
    Pull(Pull),
    /// List the images of the store
    Images(Images),
    /// Tell what this machine can do for containers, and what to change
    ///
    /// Tries the kernel's features, the worker, the directories, the settings and Slurm's plugin, each once, and leaves nothing
    /// behind. A line is "ok", "warn" (something is slower, less safe or missing), "fail" (containers do not start) or "skip"
    /// (not looked at), what was looked at, what was found, and what to do. Root is told most; run it on a compute node.
    ///
    /// Exit code: 0 when containers will start, 1 when they will not.
    Check(Check),
    /// Check the OpenPGP signatures of a SIF file
    Verify(Verify),
}

#[derive(Debug, clap::Args)]
pub struct Pull {
    /// docker://[USER@][REGISTRY#]IMAGE[:TAG] or docker://REGISTRY/IMAGE[:TAG][@DIGEST]
    pub image: String,
    /// Print nothing but errors
    #[arg(short, long)]
    pub quiet: bool,
}

#[derive(Debug, clap::Args)]
pub struct Verify {
    /// The file
    pub file: PathBuf,
    /// File with the keys of those who may sign; may be given more than once [default: images.keyrings of the site]
    #[arg(long, value_name = "FILE")]
    pub keyring: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Images {
    /// Print JSON, sizes in bytes
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct Check {
    /// Also ask a registry for this image's manifest, as a start would
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
