//! How the process keeps memory.

/// Tells the allocator to keep what is freed. A network allocates and frees the same large tensors at
/// every step; returned to the system, each would be mapped, zeroed and faulted in again. Programs call
/// this once at their start; it has an effect with glibc alone.
pub fn init() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// Blocks up to this size come from the heap; above it, from the system.
        const LARGEST: i32 = 1 << 30;
        // SAFETY: `mallopt` only sets parameters; unknown ones are refused.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST);
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
            // Grow in steps that are worth a system call.
            libc::mallopt(libc::M_TOP_PAD, 64 << 20);
        }
    }
}
