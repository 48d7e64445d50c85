//! Which files of the driver belong to which of its parts: what libnvidia-container knows (`nvc_info.c`), as a table.
#![forbid(unsafe_code)]

use super::words::Capabilities;

/// Programs of the driver.
const UTILITY_PROGRAMS: [&str; 4] = [
    "nvidia-smi",
    "nvidia-debugdump",
    "nvidia-persistenced",
    "nv-fabricmanager",
];
const COMPUTE_PROGRAMS: [&str; 2] = ["nvidia-cuda-mps-control", "nvidia-cuda-mps-server"];

const UTILITY: [&str; 3] = ["libnvidia-ml.so", "libnvidia-cfg.so", "libnvidia-nscq.so"];
const COMPUTE: [&str; 13] = [
    "libcuda.so",
    "libcudadebugger.so",
    "libnvidia-opencl.so",
    "libnvidia-gpucomp.so",
    "libnvidia-ptxjitcompiler.so",
    "libnvidia-fatbinaryloader.so",
    "libnvidia-allocator.so",
    "libnvidia-compiler.so",
    "libnvidia-pkcs11.so",
    "libnvidia-pkcs11-openssl3.so",
    "libnvidia-nvvm.so",
    "libnvidia-tileiras.so",
    "libnvidia-sandboxutils.so",
];
const VIDEO: [&str; 4] = [
    "libvdpau_nvidia.so",
    "libnvidia-encode.so",
    "libnvidia-opticalflow.so",
    "libnvcuvid.so",
];
const GRAPHICS: [&str; 18] = [
    "libnvidia-eglcore.so",
    "libnvidia-glcore.so",
    "libnvidia-tls.so",
    "libnvidia-glsi.so",
    "libnvidia-fbc.so",
    "libnvidia-ifr.so",
    "libnvidia-rtcore.so",
    "libnvoptix.so",
    "libnvidia-gpucomp.so",
    "libnvidia-allocator.so",
    "libnvidia-vulkan-producer.so",
    "libGLX_nvidia.so",
    "libEGL_nvidia.so",
    "libGLESv2_nvidia.so",
    "libGLESv1_CM_nvidia.so",
    "libnvidia-glvkspirv.so",
    "libnvidia-cbl.so",
    "libnvidia-present.so",
];
const NGX: [&str; 1] = ["libnvidia-ngx.so"];

/// Files by which the loaders of Vulkan, EGL and OpenCL find the driver; the first that is there of each line.
const VENDOR_FILES: [&[&str]; 5] = [
    &[
        "/etc/vulkan/icd.d/nvidia_icd.json",
        "/usr/share/vulkan/icd.d/nvidia_icd.json",
    ],
    &[
        "/etc/vulkan/implicit_layer.d/nvidia_layers.json",
        "/usr/share/vulkan/implicit_layer.d/nvidia_layers.json",
    ],
    &[
        "/usr/share/glvnd/egl_vendor.d/10_nvidia.json",
        "/etc/glvnd/egl_vendor.d/10_nvidia.json",
    ],
    &[
        "/usr/share/egl/egl_external_platform.d/15_nvidia_gbm.json",
        "/etc/egl/egl_external_platform.d/15_nvidia_gbm.json",
    ],
    &[
        "/usr/share/egl/egl_external_platform.d/10_nvidia_wayland.json",
        "/etc/egl/egl_external_platform.d/10_nvidia_wayland.json",
    ],
];
const OPENCL_FILE: &str = "/etc/OpenCL/vendors/nvidia.icd";

/// Names that programs use although no package makes them: a library's stem, the name, and what it is a link to (`None`:
/// the file itself).
pub const MORE_NAMES: [(&str, &str, Option<&str>); 3] = [
    ("libcuda.so", "libcuda.so", Some("libcuda.so.1")),
    ("libGLX_nvidia.so", "libGLX_indirect.so.0", None),
    (
        "libnvidia-opticalflow.so",
        "libnvidia-opticalflow.so",
        Some("libnvidia-opticalflow.so.1"),
    ),
];

impl Capabilities {
    /// Stems of the libraries, in order, each once.
    pub fn libraries(&self) -> Vec<&'static str> {
        let parts: [(bool, &[&'static str]); 5] = [
            (self.utility, &UTILITY),
            (self.compute, &COMPUTE),
            (self.video, &VIDEO),
            (self.graphics || self.display, &GRAPHICS),
            (self.ngx, &NGX),
        ];
        let mut all: Vec<&str> = Vec::new();
        for stem in parts.iter().filter(|(wanted, _)| *wanted).flat_map(|(_, stems)| *stems) {
            if !all.contains(stem) {
                all.push(stem);
            }
        }
        all
    }

    /// Names of the programs.
    pub fn programs(&self) -> Vec<&'static str> {
        let parts: [(bool, &[&'static str]); 2] =
            [(self.utility, &UTILITY_PROGRAMS), (self.compute, &COMPUTE_PROGRAMS)];
        let wanted = parts.iter().filter(|(wanted, _)| *wanted);
        wanted.flat_map(|(_, names)| *names).copied().collect()
    }

    /// Vendor files: lists of which the first that exists is wanted.
    pub fn vendor_files(&self) -> Vec<&'static [&'static str]> {
        const OPENCL: &[&str] = &[OPENCL_FILE];
        let mut files: Vec<&[&str]> = Vec::new();
        if self.graphics || self.display {
            files.extend(VENDOR_FILES);
        }
        if self.compute {
            files.push(OPENCL);
        }
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_and_name_nothing_twice() {
        let of = |text: &str| Capabilities::parse(Some(text)).unwrap();
        assert_eq!(of("utility").libraries(), UTILITY);
        assert!(of("compute").libraries().contains(&"libcuda.so") && !of("compute").libraries().contains(&UTILITY[0]));
        let all = of("all").libraries();
        let unique: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(unique.len(), all.len());
        assert!(of("compat32").libraries().is_empty() && of("compat32").programs().is_empty());
        assert_eq!(of("compute").vendor_files(), [&[OPENCL_FILE][..]]);
        assert_eq!(of("utility,compute").programs().len(), 6);
    }
}
