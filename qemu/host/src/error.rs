//! What can go wrong with a running QEMU.

use std::fmt;
use std::io;

/// Why a machine does not answer. Every kind carries the command line and the last lines that QEMU
/// wrote.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Error {
    /// What happened.
    pub what: String,
    /// QEMU's command line.
    pub command: String,
    /// The last lines of QEMU's output.
    pub output: Vec<String>,
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}\n  {}", self.what, self.command)?;
        if self.output.is_empty() {
            write!(formatter, "\n  QEMU wrote nothing")?;
        }
        for line in &self.output {
            write!(formatter, "\n  | {line}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// The words for an error of the socket.
pub(crate) fn lost(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "QEMU does not answer".to_owned(),
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::ConnectionReset => "QEMU closed the connection".to_owned(),
        _ => format!("the connection to QEMU is broken: {error}"),
    }
}
