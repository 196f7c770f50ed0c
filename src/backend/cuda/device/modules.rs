//! What build.rs has compiled: the list of kernels, machine code, and what ptxas said about it.

/// `(module, kernel)` of every entry point in `kernels/*.cu`.
pub const KERNELS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// Whether cards of compute capability `major.minor` can run the images: same major and not older, or newer than the PTX.
pub fn runs_on(major: u32, minor: u32) -> bool {
    let capability = |a: &&str| -> Option<u32> { a.trim_end_matches(char::is_alphabetic).parse().ok() };
    let mut built = ARCHITECTURES.iter().filter_map(capability);
    let newest = ARCHITECTURES.iter().filter_map(capability).max();
    let card = major * 10 + minor;
    built.any(|a| a / 10 == major && a <= card) || newest.is_some_and(|a| card >= a)
}

/// Major version of the CUDA toolkit that compiled the images.
pub fn toolkit() -> Option<u32> {
    COMPILER.strip_prefix("nvcc ")?.split('.').next()?.parse().ok()
}
