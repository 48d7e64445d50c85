//! The code of the program that stands in for others (`crate::stand_in`). It is data here: nothing of this process calls it.
//!
//! Called with up to three words it ends, and well. With more it is a launcher: it executes the third word with those that
//! follow, as the leader of a process group of its own and without descriptors beyond the standard ones.

use std::arch::global_asm;

#[cfg(target_arch = "x86_64")]
global_asm!(
    r#"
    .pushsection .rodata.pyxis_stand_in, "a", @progbits
    .hidden pyxis_stand_in, pyxis_stand_in_end
    .global pyxis_stand_in, pyxis_stand_in_end
pyxis_stand_in:
    mov     rbx, [rsp]                  // the number of words; they follow, then NULL, then the environment
    cmp     rbx, 3
    jbe     1f
    xor     edi, edi
    xor     esi, esi
    mov     eax, 109                    // setpgid(0, 0)
    syscall
    mov     edi, 3
    mov     esi, 0xffffffff
    xor     edx, edx
    mov     eax, 436                    // close_range(3, all, 0)
    syscall
    mov     rdi, [rsp + 24]
    lea     rsi, [rsp + 32]
    lea     rdx, [rsp + rbx * 8 + 16]
    mov     eax, 59                     // execve
    syscall
    mov     edi, 127
    mov     eax, 231                    // exit_group
    syscall
1:  xor     edi, edi
    mov     eax, 231
    syscall
pyxis_stand_in_end:
    .popsection
    "#
);

#[cfg(target_arch = "aarch64")]
global_asm!(
    r#"
    .pushsection .rodata.pyxis_stand_in, "a", @progbits
    .hidden pyxis_stand_in, pyxis_stand_in_end
    .global pyxis_stand_in, pyxis_stand_in_end
    .balign 4
pyxis_stand_in:
    ldr     x19, [sp]                   // the number of words; they follow, then NULL, then the environment
    cmp     x19, #3
    b.ls    1f
    mov     x0, #0
    mov     x1, #0
    mov     x8, #154                    // setpgid(0, 0)
    svc     #0
    mov     x0, #3
    mov     w1, #-1
    mov     x2, #0
    mov     x8, #436                    // close_range(3, all, 0)
    svc     #0
    ldr     x0, [sp, #24]
    add     x1, sp, #32
    add     x2, sp, #16
    add     x2, x2, x19, lsl #3
    mov     x8, #221                    // execve
    svc     #0
    mov     x0, #127
    mov     x8, #94                     // exit_group
    svc     #0
1:  mov     x0, #0
    mov     x8, #94
    svc     #0
pyxis_stand_in_end:
    .popsection
    "#
);

/// The number of this processor in an ELF header, and the code, if it is written for this processor.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub fn code() -> Option<(u16, &'static [u8])> {
    // SAFETY: both are defined above.
    unsafe extern "C" {
        static pyxis_stand_in: u8;
        static pyxis_stand_in_end: u8;
    }
    let machine = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
    let (start, end) = (&raw const pyxis_stand_in, &raw const pyxis_stand_in_end);
    // SAFETY: the two are the ends of one read-only section, in this order.
    let code = unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) };
    Some((machine, code))
}

/// It is written for no other processor.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn code() -> Option<(u16, &'static [u8])> {
    None
}
