//! NumPy archives, written as they are computed.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::error::{Error, Result};

/// An `.npz` file under a temporary name until [`Npz::finish`]; arrays are stored without compression, so that they can be
/// written row by row and memory-mapped by readers.
pub struct Npz {
    zip: ZipWriter<BufWriter<File>>,
    temporary: tempfile::TempPath,
    path: PathBuf,
    /// Values still to come in the open array.
    left: usize,
}

impl Npz {
    /// Begins the file that will be `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut builder = tempfile::Builder::new();
        builder.prefix(".epi-");
        // Temporary files are private; results are to be as readable as any new file (less the umask).
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let (file, temporary) = builder.tempfile_in(folder).map_err(Error::io(folder))?.into_parts();
        let zip = ZipWriter::new(BufWriter::new(file));
        Ok(Npz { zip, temporary, path: path.to_path_buf(), left: 0 })
    }
    /// Opens an array of f32 of `shape`; its values follow by [`Npz::values`].
    pub fn array(&mut self, name: &str, shape: &[usize]) -> Result<()> {
        assert_eq!(self.left, 0, "the array before `{name}` is not complete");
        self.left = shape.iter().product();
        self.entry(name, "<f4", shape)
    }
    /// The next values of the open array, in row-major order.
    pub fn values(&mut self, values: &[f32]) -> Result<()> {
        self.left = self.left.checked_sub(values.len()).expect("no more values than the shape has room for");
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.zip.write_all(&bytes).map_err(Error::io(&self.path))
    }
    /// A whole array of f32.
    pub fn add(&mut self, name: &str, shape: &[usize], values: &[f32]) -> Result<()> {
        self.array(name, shape)?;
        self.values(values)
    }
    /// A whole array of bytes (codes of bases).
    pub fn add_bytes(&mut self, name: &str, shape: &[usize], values: &[u8]) -> Result<()> {
        self.entry(name, "|u1", shape)?;
        self.zip.write_all(values).map_err(Error::io(&self.path))
    }
    fn entry(&mut self, name: &str, kind: &str, shape: &[usize]) -> Result<()> {
        let big = shape.iter().product::<usize>() > (1 << 28);
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).large_file(big);
        let failed = |e: zip::result::ZipError| Error::io(&self.path)(std::io::Error::other(e));
        self.zip.start_file(format!("{name}.npy"), options).map_err(failed)?;
        let sizes: String = shape.iter().map(|n| format!("{n}, ")).collect();
        let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': ({}), }}", sizes.trim_end());
        // Magic, version and length take 10 bytes; NumPy wants the data at a multiple of 64.
        while (10 + header.len() + 1) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        self.zip.write_all(&bytes).map_err(Error::io(&self.path))
    }
    /// Completes the file and gives it its name.
    pub fn finish(self) -> Result<()> {
        assert_eq!(self.left, 0, "the last array is not complete");
        let failed = |e: zip::result::ZipError| Error::io(&self.path)(std::io::Error::other(e));
        let mut out = self.zip.finish().map_err(failed)?;
        out.flush().and_then(|()| out.get_ref().sync_all()).map_err(Error::io(&self.path))?;
        self.temporary.persist(&self.path).map_err(|e| Error::io(&self.path)(e.error))
    }
}
