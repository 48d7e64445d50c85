//! Slurm unloads plugins (it looks at each one before it loads it for good), but code that has set a panic hook, or
//! thread-local values, must stay: the loader is told never to unload this file.
fn main() {
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo:rerun-if-changed=build.rs");
}
