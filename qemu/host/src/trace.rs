//! What QEMU says that it did: its log of trace events, read while it grows.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

/// A log file.
#[derive(Debug)]
pub struct Trace {
    path: PathBuf,
    file: Option<File>,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
}

impl Trace {
    /// The log at `path`, which need not exist yet.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: None,
            rest: Vec::new(),
        }
    }

    /// The whole lines that were written since the last call.
    pub fn take(&mut self) -> Vec<String> {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let Some(file) = &mut self.file else {
            return Vec::new();
        };
        // What cannot be read is missing from the lines, and so from what they are compared with.
        let _ = file.read_to_end(&mut self.rest);
        let whole = self
            .rest
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |end| end + 1);
        let lines: Vec<u8> = self.rest.drain(..whole).collect();
        String::from_utf8_lossy(&lines)
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;
    use std::io::Write;

    #[test]
    fn lines_come_once_and_whole() {
        let folder = Folder::new().expect("a folder");
        let path = folder.path().join("log");
        let mut trace = Trace::new(path.clone());
        assert!(trace.take().is_empty());
        let mut file = File::create(&path).expect("created");
        file.write_all(b"one\ntw").expect("written");
        assert_eq!(trace.take(), ["one"]);
        file.write_all(b"o\n").expect("written");
        assert_eq!(trace.take(), ["two"]);
        assert!(trace.take().is_empty());
    }
}
