//! The qtest protocol: one line a command, one line an answer, and a line for each interrupt between.

use crate::error::lost;
use std::fmt;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Answers that may be owed before they are read, so that QEMU never waits for this side to read.
const OWED: usize = 1000;
/// Interrupts that are kept for [`Session::take_interrupts`].
const KEPT: usize = 1 << 16;

/// A change of an interrupt line that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// The line's number at the interrupt controller.
    pub line: u32,
    /// Whether it was raised; else it was lowered.
    pub raised: bool,
}

/// How wide an access is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Width {
    Byte,
    Word,
    Long,
    Quad,
}

impl Width {
    const fn letter(self) -> char {
        match self {
            Self::Byte => 'b',
            Self::Word => 'w',
            Self::Long => 'l',
            Self::Quad => 'q',
        }
    }
}

/// The connection. Writes are sent at once and their answers read later; everything else waits for
/// its answer, and so for everything before it.
pub(crate) struct Session {
    writer: UnixStream,
    reader: BufReader<UnixStream>,
    owed: usize,
    interrupts: Vec<Interrupt>,
}

impl Session {
    pub fn new(stream: UnixStream, limit: Duration) -> io::Result<Self> {
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        Ok(Self {
            reader: BufReader::new(stream.try_clone()?),
            writer: stream,
            owed: 0,
            interrupts: Vec::new(),
        })
    }

    /// Waits until the machine is built: QEMU connects before it looks at most of its options.
    pub fn greet(mut self) -> Result<Self, String> {
        self.ask(format_args!("endianness"))?;
        Ok(self)
    }

    pub fn read(&mut self, width: Width, address: u64) -> Result<u64, String> {
        let answer = self.ask(format_args!("read{} {address:#x}", width.letter()))?;
        number(&answer)
    }

    /// Sends a write; what QEMU answers is seen by a later call.
    pub fn write(&mut self, width: Width, address: u64, value: u64) -> Result<(), String> {
        self.send(format_args!(
            "write{} {address:#x} {value:#x}",
            width.letter()
        ))?;
        if self.owed > OWED {
            self.synchronize()?;
        }
        Ok(())
    }

    /// As [`write`](Self::write), to an I/O port.
    pub fn write_port(&mut self, port: u16, value: u32) -> Result<(), String> {
        self.send(format_args!("outl {port:#x} {value:#x}"))
    }

    /// Lets the machine's clock run; its time afterwards in nanoseconds.
    pub fn step_clock(&mut self, nanoseconds: u64) -> Result<u64, String> {
        let answer = self.ask(format_args!("clock_step {nanoseconds}"))?;
        answer
            .parse()
            .map_err(|_| format!("QEMU's clock says `{answer}`"))
    }

    /// Watches the interrupt lines that go into the device at `path` of QEMU's object tree.
    pub fn intercept(&mut self, path: &str) -> Result<(), String> {
        self.ask(format_args!("irq_intercept_in {path}")).map(drop)
    }

    /// Waits until everything that was sent has been done; true if there was something.
    pub fn synchronize(&mut self) -> Result<bool, String> {
        let any = self.owed > 0;
        while self.owed > 0 {
            self.answer()?;
        }
        Ok(any)
    }

    pub fn take_interrupts(&mut self) -> Vec<Interrupt> {
        std::mem::take(&mut self.interrupts)
    }

    /// Ends the connection, so that a wait for an answer ends too.
    pub fn close(&self) {
        let _ = self.writer.shutdown(std::net::Shutdown::Both);
    }

    fn send(&mut self, command: fmt::Arguments<'_>) -> Result<(), String> {
        let line = format!("{command}\n");
        self.writer
            .write_all(line.as_bytes())
            .map_err(|error| lost(&error))?;
        self.owed += 1;
        Ok(())
    }

    fn ask(&mut self, command: fmt::Arguments<'_>) -> Result<String, String> {
        self.send(command)?;
        loop {
            let answer = self.answer()?;
            if self.owed == 0 {
                return Ok(answer);
            }
        }
    }

    /// The next answer, without its `OK`.
    fn answer(&mut self) -> Result<String, String> {
        loop {
            let mut line = String::new();
            let read = self.reader.read_line(&mut line);
            match read {
                Ok(0) => return Err(lost(&io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) => return Err(lost(&error)),
            }
            let line = line.trim_end();
            if let Some(interrupt) = line.strip_prefix("IRQ ") {
                self.interrupt(interrupt);
            } else if let Some(value) = line.strip_prefix("OK") {
                self.owed = self.owed.saturating_sub(1);
                return Ok(value.trim_start().to_owned());
            } else {
                return Err(format!("QEMU answers `{line}`"));
            }
        }
    }

    fn interrupt(&mut self, text: &str) {
        let Some((change, line)) = text.split_once(' ') else {
            return;
        };
        if let Ok(line) = line.parse()
            && self.interrupts.len() < KEPT
        {
            self.interrupts.push(Interrupt {
                line,
                raised: change == "raise",
            });
        }
    }
}

fn number(answer: &str) -> Result<u64, String> {
    answer
        .strip_prefix("0x")
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or_else(|| format!("QEMU answers `{answer}` where a number belongs"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// A session whose other end writes `answers` when it has read as many lines.
    fn against(lines: usize, answers: &'static str) -> Session {
        let (here, there) = UnixStream::pair().expect("a pair");
        thread::spawn(move || {
            let mut reader = BufReader::new(there.try_clone().expect("cloned"));
            for _ in 0..lines {
                let _ = reader.read_line(&mut String::new());
            }
            let mut there = there;
            let _ = there.write_all(answers.as_bytes());
            // Holds the connection until the other end is done with it.
            let _ = reader.read_line(&mut String::new());
        });
        Session::new(here, Duration::from_millis(300)).expect("a session")
    }

    #[test]
    fn answers_of_writes_are_read_before_that_of_a_read() {
        let mut session = against(3, "OK\nIRQ raise 37\nOK\nIRQ lower 37\nOK 0x1f\n");
        session.write(Width::Long, 0x10, 1).expect("sent");
        session.write(Width::Quad, 0x18, 2).expect("sent");
        assert_eq!(session.read(Width::Long, 0x20), Ok(0x1f));
        let expected = [true, false].map(|raised| Interrupt { line: 37, raised });
        assert_eq!(session.take_interrupts(), expected);
        assert_eq!(session.synchronize(), Ok(false));
    }

    #[test]
    fn silence_nonsense_and_refusals_are_errors() {
        let mut silent = against(1, "");
        let error = silent.read(Width::Long, 0).expect_err("no answer");
        assert_eq!(error, "QEMU does not answer");
        let mut nonsense = against(1, "OK many\n");
        assert!(nonsense.read(Width::Long, 0).is_err());
        let mut refused = against(1, "FAIL Unknown command 'clock_step'\n");
        let error = refused.step_clock(1).expect_err("refused");
        assert!(error.contains("Unknown command"), "{error}");
    }
}
