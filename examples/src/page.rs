//! What the page-long examples share: their small inputs.

use std::fs;
use std::io;
use std::path::Path;

/// Writes a file, and the folder it is in, unless it is there already.
///
/// # Errors
///
/// What the file system answers.
pub fn make(path: impl AsRef<Path>, text: impl AsRef<str>) -> io::Result<()> {
    let path = path.as_ref();
    if path.exists() {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text.as_ref())
}
