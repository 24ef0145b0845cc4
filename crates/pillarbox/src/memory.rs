//! How memory goes back to the system.
//!
//! Batches are buffers of up to megabytes, made and dropped all the time. glibc learns from the first that is dropped that
//! such buffers belong into its heap, where they leave holes between smaller ones: a transaction of 10 GB took 78 MiB, most
//! of them holes. Told not to learn, it maps each large buffer by itself, and drops the map with it.

/// From this size on a buffer has a map of its own. What a quiet pipeline makes is smaller.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES_MIN: std::ffi::c_int = 256 << 10;

/// So much may lie unused at the end of the heap.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const UNUSED_BYTES_MAX: std::ffi::c_int = 1 << 20;

/// Lets large buffers go back at once. Where the allocator is another one, it is left as it is.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "a function of C")]
pub(crate) fn return_large_buffers() {
    // SAFETY: it takes numbers, and the only thread that runs calls it.
    let taken = unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN) == 1
            && libc::mallopt(libc::M_TRIM_THRESHOLD, UNUSED_BYTES_MAX) == 1
    };
    debug_assert!(taken, "glibc knows both");
}

/// Lets large buffers go back at once. Where the allocator is another one, it is left as it is.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn return_large_buffers() {}
