//! A running QEMU.

use crate::error::Error;
use crate::folder::Folder;
use crate::program::Program;
use crate::ram::Ram;
use crate::session::{Interrupt, Session, Width};
use crate::trace::Trace;
use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Lines of QEMU's output that an error shows.
const SHOWN: usize = 12;
/// What QEMU is given to start: tens of milliseconds are usual.
const START: Duration = Duration::from_secs(20);
/// What QEMU is given to end when its connection is closed.
const END: Duration = Duration::from_millis(500);

/// An emulator, with the places that its machine type fixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// A PC: `-M q35`.
    X86_64,
    /// An Arm machine: `-M virt`.
    Aarch64,
    /// A RISC-V machine: `-M virt`.
    Riscv64,
}

impl Architecture {
    /// QEMU's name of it, the end of `qemu-system-`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
            Self::Riscv64 => "riscv64",
        }
    }

    /// Physical address of the memory's first byte.
    const fn ram_base(self) -> u64 {
        match self {
            Self::X86_64 => 0,
            Self::Aarch64 => 0x4000_0000,
            Self::Riscv64 => 0x8000_0000,
        }
    }
}

/// What machine to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which emulator.
    pub architecture: Architecture,
    /// Machine type with its properties, as after `-M`.
    pub machine: String,
    /// Bytes of memory, a multiple of 2 MiB.
    pub memory: u64,
    /// More options, as on the command line.
    pub arguments: Vec<String>,
    /// Trace events to be recorded, patterns as after `-trace`.
    pub trace: Vec<String>,
    /// How long QEMU may take for an answer.
    pub limit: Duration,
}

impl Options {
    /// A machine with 64 MiB, no devices and no trace, whose QEMU has ten seconds for each answer.
    pub fn new(architecture: Architecture, machine: &str) -> Self {
        Self {
            architecture,
            machine: machine.to_owned(),
            memory: 64 << 20,
            arguments: Vec::new(),
            trace: Vec::new(),
            limit: Duration::from_secs(10),
        }
    }

    /// Adds a device, as after `-device`.
    #[must_use]
    pub fn device(mut self, device: &str) -> Self {
        self.arguments.extend(["-device".into(), device.into()]);
        self
    }
}

/// A running QEMU. When it is dropped, the process ends.
///
/// Once QEMU has failed, every call gives the same error.
pub struct Machine {
    architecture: Architecture,
    command: String,
    session: Mutex<State>,
    child: Mutex<Child>,
    output: Arc<Mutex<VecDeque<String>>>,
    readers: Mutex<Vec<JoinHandle<()>>>,
    ram: Arc<Ram>,
    trace: Mutex<Trace>,
    /// Removed with the machine.
    _folder: Folder,
}

enum State {
    Open(Session),
    Failed(Error),
}

impl Machine {
    /// Starts QEMU and waits until it can be asked.
    ///
    /// # Errors
    ///
    /// If the process cannot be started, ends at once, or does not connect in time.
    pub fn start(program: &Program, options: &Options) -> Result<Arc<Self>, Error> {
        let early = |what: String| Error {
            what,
            command: options.machine.clone(),
            output: Vec::new(),
        };
        let io = |what: &'static str| move |error: io::Error| early(format!("{what}: {error}"));
        let folder = Folder::new().map_err(io("no folder for QEMU's socket"))?;
        let ram = Ram::new(options.architecture.ram_base(), options.memory)
            .map_err(io("no memory for QEMU's machine"))?;
        let socket = folder.path().join("qtest");
        let listener = UnixListener::bind(&socket).map_err(io("no socket for QEMU"))?;
        listener
            .set_nonblocking(true)
            .map_err(io("no socket for QEMU"))?;
        let trace = folder.path().join("trace");

        let mut command = program.command(options.architecture.name());
        // Without `-qtest-log`, QEMU tells its standard error every access.
        command.args(["-accel", "qtest", "-qtest-log", "/dev/null"]);
        command.args(["-display", "none", "-nodefaults"]);
        command.args(["-run-with", "exit-with-parent=on"]);
        command
            .arg("-qtest")
            .arg(format!("unix:{}", socket.display()));
        command.arg("-m").arg(format!("{}M", options.memory >> 20));
        command.arg("-object").arg(format!(
            "memory-backend-file,id=ram,size={},mem-path={},share=on",
            options.memory,
            ram.path()
        ));
        let machine = format!("{},memory-backend=ram", options.machine);
        command.args(["-M", &machine]);
        command.args(&options.arguments);
        for pattern in &options.trace {
            command.args(["-trace", pattern]);
        }
        command.arg("-D").arg(&trace);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let shown = shown(&command);
        let mut child = command.spawn().map_err(|error| Error {
            what: format!("QEMU cannot be started: {error}"),
            command: shown.clone(),
            output: Vec::new(),
        })?;
        let output = Arc::new(Mutex::new(VecDeque::new()));
        let mut readers = Vec::new();
        if let Some(pipe) = child.stdout.take() {
            readers.push(keep(pipe, output.clone()));
        }
        if let Some(pipe) = child.stderr.take() {
            readers.push(keep(pipe, output.clone()));
        }
        let connected = connect(&listener, &mut child)
            .and_then(|stream| Session::new(stream, options.limit).map_err(|e| e.to_string()))
            .and_then(Session::greet);
        let (state, why) = match connected {
            Ok(session) => (State::Open(session), None),
            Err(why) => {
                let nothing = early(String::new());
                (State::Failed(nothing), Some(why))
            }
        };
        let machine = Self {
            architecture: options.architecture,
            command: shown,
            session: Mutex::new(state),
            child: Mutex::new(child),
            output,
            readers: Mutex::new(readers),
            ram: Arc::new(ram),
            trace: Mutex::new(Trace::new(trace)),
            _folder: folder,
        };
        match why {
            None => Ok(Arc::new(machine)),
            Some(why) => Err(machine.failure(why)),
        }
    }

    /// Which emulator it is.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// The command line, as a person would type it.
    pub fn command(&self) -> &str {
        &self.command
    }

    /// The memory.
    pub fn ram(&self) -> &Arc<Ram> {
        &self.ram
    }

    /// Reads 16 bits at a physical address.
    ///
    /// # Errors
    ///
    /// As every call: if QEMU has failed.
    pub fn read16(&self, address: u64) -> Result<u16, Error> {
        Ok(self.ask(|session| session.read(Width::Word, address))? as u16)
    }

    /// Reads 32 bits at a physical address.
    ///
    /// # Errors
    ///
    /// As every call: if QEMU has failed.
    pub fn read32(&self, address: u64) -> Result<u32, Error> {
        Ok(self.ask(|session| session.read(Width::Long, address))? as u32)
    }

    /// Reads 64 bits at a physical address.
    ///
    /// # Errors
    ///
    /// As every call: if QEMU has failed.
    pub fn read64(&self, address: u64) -> Result<u64, Error> {
        self.ask(|session| session.read(Width::Quad, address))
    }

    /// Writes 8 bits at a physical address, as [`write32`](Self::write32).
    ///
    /// # Errors
    ///
    /// As every call: if QEMU has failed.
    pub fn write8(&self, address: u64, value: u8) -> Result<(), Error> {
        self.ask(|session| session.write(Width::Byte, address, value.into()))
    }

    /// Writes 16 bits at a physical address, as [`write32`](Self::write32).
    ///
    /// # Errors
    ///
    /// As every call: if QEMU has failed.
    pub fn write16(&self, address: u64, value: u16) -> Result<(), Error> {
        self.ask(|session| session.write(Width::Word, address, value.into()))
    }

    /// Writes 32 bits at a physical address: sent when the call returns, and done before any later
    /// call's read, write or clock step.
    ///
    /// # Errors
    ///
    /// As every call: if QEMU has failed.
    pub fn write32(&self, address: u64, value: u32) -> Result<(), Error> {
        self.ask(|session| session.write(Width::Long, address, value.into()))
    }

    /// Writes 64 bits at a physical address, as [`write32`](Self::write32).
    ///
    /// # Errors
    ///
    /// As every call: if QEMU has failed.
    pub fn write64(&self, address: u64, value: u64) -> Result<(), Error> {
        self.ask(|session| session.write(Width::Quad, address, value))
    }

    /// Writes 32 bits to an I/O port of a PC.
    ///
    /// # Errors
    ///
    /// As every call: if QEMU has failed.
    pub fn write_port32(&self, port: u16, value: u32) -> Result<(), Error> {
        self.ask(|session| session.write_port(port, value))
    }

    /// Waits until every write has been done; true if one had not.
    ///
    /// # Errors
    ///
    /// As every call: if QEMU has failed.
    pub fn synchronize(&self) -> Result<bool, Error> {
        self.ask(Session::synchronize)
    }

    /// Lets the machine's clock run for some nanoseconds, with every timer that ends meanwhile; its
    /// time afterwards in nanoseconds.
    ///
    /// # Errors
    ///
    /// As every call: if QEMU has failed.
    pub fn step_clock(&self, nanoseconds: u64) -> Result<u64, Error> {
        self.ask(|session| session.step_clock(nanoseconds))
    }

    /// Watches the interrupt lines that go into the device at `path` of QEMU's object tree. One
    /// device of a machine can be watched.
    ///
    /// # Errors
    ///
    /// As every call: if QEMU has failed.
    pub fn watch_interrupts(&self, path: &str) -> Result<(), Error> {
        self.ask(|session| session.intercept(path))
    }

    /// What the watched lines did since the last call.
    pub fn take_interrupts(&self) -> Vec<Interrupt> {
        match &mut *lock(&self.session) {
            State::Open(session) => session.take_interrupts(),
            State::Failed(_) => Vec::new(),
        }
    }

    /// The lines of the trace since the last call, of everything that has been done.
    ///
    /// # Errors
    ///
    /// As every call: if QEMU has failed.
    pub fn take_trace(&self) -> Result<Vec<String>, Error> {
        self.synchronize()?;
        Ok(lock(&self.trace).take())
    }

    /// What is wrong with QEMU, if anything is known to be.
    pub fn failed(&self) -> Option<Error> {
        match &*lock(&self.session) {
            State::Open(_) => None,
            State::Failed(error) => Some(error.clone()),
        }
    }

    /// The process's number.
    pub fn process(&self) -> u32 {
        lock(&self.child).id()
    }

    /// An error of this machine that is not QEMU's end.
    pub fn trouble(&self, what: String) -> Error {
        Error {
            what,
            command: self.command.clone(),
            output: lock(&self.output).iter().cloned().collect(),
        }
    }

    fn ask<T>(&self, ask: impl FnOnce(&mut Session) -> Result<T, String>) -> Result<T, Error> {
        let mut state = lock(&self.session);
        match &mut *state {
            State::Failed(error) => Err(error.clone()),
            State::Open(session) => ask(session).map_err(|what| {
                let error = self.failure(what);
                *state = State::Failed(error.clone());
                error
            }),
        }
    }

    /// Ends the process and tells all that is known.
    fn failure(&self, what: String) -> Error {
        let mut child = lock(&self.child);
        // A process that is about to end by itself says why.
        let ended = wait(&mut child, END);
        let how = match ended {
            Some(status) => format!(" ({status})"),
            None => " (it was killed)".to_owned(),
        };
        let _ = child.kill();
        let _ = child.wait();
        for reader in std::mem::take(&mut *lock(&self.readers)) {
            let _ = reader.join();
        }
        Error {
            what: what + &how,
            command: self.command.clone(),
            output: lock(&self.output).iter().cloned().collect(),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let State::Open(session) = &*lock(&self.session) {
            session.close();
        }
        let mut child = lock(&self.child);
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for QEMU's connection.
fn connect(listener: &UnixListener, child: &mut Child) -> Result<UnixStream, String> {
    let start = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                let blocking = stream.set_nonblocking(false);
                return blocking.map(|()| stream).map_err(|e| e.to_string());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.to_string()),
        }
        if matches!(child.try_wait(), Ok(Some(_))) {
            return Err("QEMU ended before it could be asked anything".to_owned());
        }
        if start.elapsed() > START {
            return Err(format!("QEMU did not start within {START:?}"));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits for a process to end by itself.
fn wait(child: &mut Child, limit: Duration) -> Option<std::process::ExitStatus> {
    let start = Instant::now();
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if start.elapsed() > limit {
            return None;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Keeps the last lines of a pipe.
fn keep(pipe: impl Read + Send + 'static, lines: Arc<Mutex<VecDeque<String>>>) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            let Ok(line) = line else { return };
            let mut lines = lock(&lines);
            if lines.len() == SHOWN {
                lines.pop_front();
            }
            lines.push_back(line);
        }
    })
}

/// A command as a person would type it.
fn shown(command: &Command) -> String {
    let mut words = Vec::new();
    for (name, value) in command.get_envs() {
        let value = value.unwrap_or_default().to_string_lossy();
        words.push(format!("{}={value}", name.to_string_lossy()));
    }
    words.push(command.get_program().to_string_lossy().into_owned());
    words.extend(
        command
            .get_args()
            .map(|it| it.to_string_lossy().into_owned()),
    );
    words.join(" ")
}
