//! One error type for the library: what went wrong, where, and what to do next.

use std::path::{Path, PathBuf};

/// Result of every fallible call of the library.
pub type Result<T> = std::result::Result<T, Error>;

/// Every way in which a call can fail. User errors carry the file, line or option and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operator got tensors that do not fit together.
    #[error("{op}: {message}")]
    Shape { op: &'static str, message: String },
    /// An operator that this backend (or this configuration of it) does not offer.
    #[error("{op} is not supported here: {message}")]
    Unsupported { op: &'static str, message: String },
    /// A file whose content is not what it should be; `line` counts from 1 where lines make sense.
    #[error("{}{}: {message}", path.display(), line.map(|l| format!(":{l}")).unwrap_or_default())]
    Input { path: PathBuf, line: Option<u64>, message: String },
    /// The operating system refused something.
    #[error("{}: {source}{}", path.display(), remedy(source))]
    Io { path: PathBuf, source: std::io::Error },
    /// A value of the configuration or the command line that cannot work.
    #[error("{option}: {message}")]
    Config { option: String, message: String },
    /// A device that is not there, too old, out of memory, or that reported a failure.
    #[error("{0}")]
    Device(String),
    /// The loss or a gradient is no longer a finite number.
    #[error("{0}")]
    NonFinite(String),
    /// Stopped by the user; everything worth keeping has been saved.
    #[error("interrupted: {0}")]
    Interrupted(String),
}

fn remedy(source: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::*;
    match source.kind() {
        NotFound => " (check the path)",
        PermissionDenied | ReadOnlyFilesystem => " (choose a place you may write to, or change the permissions)",
        StorageFull | QuotaExceeded => " (free some space or write elsewhere; nothing was left under the final name)",
        UnexpectedEof => " (the file ends too early: was it copied completely?)",
        _ => "",
    }
}

impl Error {
    /// A mismatch of shapes, named after the operator.
    pub fn shape(op: &'static str, message: impl Into<String>) -> Self {
        Error::Shape { op, message: message.into() }
    }
    /// Bad content of a file, with its line when known.
    pub fn input(path: impl AsRef<Path>, line: impl Into<Option<u64>>, message: impl Into<String>) -> Self {
        Error::Input { path: path.as_ref().to_path_buf(), line: line.into(), message: message.into() }
    }
    /// A failure of the operating system at `path`; use as `.map_err(Error::io(path))`.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, source }
    }
    /// A bad option or configuration value, with the remedy in the message.
    pub fn config(option: impl Into<String>, message: impl Into<String>) -> Self {
        Error::Config { option: option.into(), message: message.into() }
    }
}
