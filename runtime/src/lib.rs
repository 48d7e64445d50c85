//! The container runtime: from an image reference to namespaces that a task can join.
//!
//! The flow is one line, and every module is one arrow of it or serves one:
//!
//! ```text
//! words -> Request -> plan(Request, Config, Host) -> Plan -> Image (packs) -> Rootfs -> Namespaces -> enter()
//! ```
//!
//! Pure modules (no system call, no environment, no file): [`reference`], [`mount`], [`request`], [`config`] (but for
//! [`config::load`], which reads the files), [`plan`],
//! [`environment`]. Unsafe code lives in [`sys`] alone. The workload manager is not known here.

mod bounded;
pub mod check;
pub mod config;
pub mod containers;
pub mod devices;
pub mod digest;
mod directory;
mod elf;
pub mod enter;
pub mod entrypoint;
pub mod environment;
mod errand;
pub mod error;
pub mod hooks;
pub mod image;
pub mod import;
pub mod importer;
pub mod lock;
pub mod mount;
pub mod namespaces;
pub mod pack;
pub mod plan;
pub mod policy;
pub mod privilege;
pub mod reference;
pub mod report;
pub mod request;
pub mod rootfs;
pub mod rootless;
pub mod save;
pub mod stand_in;
pub mod start;
pub mod store;
pub mod sys;
pub mod timings;
pub mod unpack;
pub mod worker;

pub use digest::Digest;
pub use error::{Error, Result};
