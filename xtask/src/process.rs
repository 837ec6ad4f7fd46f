//! Child processes: captured line by line, limited in time and output, never outliving xtask.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Process groups that are running now; the signal handler kills them.
static RUNNING: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// How often [`Event::Tick`] comes while a child is silent.
const TICK: Duration = Duration::from_millis(500);

/// Which of the child's two outputs a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// What a running child does, as told to the caller of [`run`].
pub enum Event<'a> {
    /// A complete line, without its line end.
    Line(Stream, &'a str),
    /// Nothing new; time passes.
    Tick,
}

/// How much a child may use before it is killed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time from start to exit.
    pub time: Option<Duration>,
    /// Bytes of output, both streams together.
    pub output: usize,
}

impl Limits {
    /// For tools that we trust to end: no time limit, 256 MiB of output.
    pub const TOOL: Self = Self {
        time: None,
        output: 256 << 20,
    };
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself or by a signal from outside.
    Exited(ExitStatus),
    /// Killed by us at the time limit.
    TimedOut(Duration),
    /// Killed by us at the output limit, in bytes.
    TooMuchOutput(usize),
}

impl End {
    /// Whether the child ended by itself with status 0.
    pub fn success(self) -> bool {
        self.code() == Some(0)
    }

    /// The exit status, if the child ended by itself.
    pub fn code(self) -> Option<i32> {
        match self {
            Self::Exited(status) => status.code(),
            Self::TimedOut(_) | Self::TooMuchOutput(_) => None,
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(status) => match (status.code(), status.signal()) {
                (Some(code), _) => write!(f, "exit status {code}"),
                (None, Some(signal)) => write!(f, "killed by signal {signal}"),
                (None, None) => write!(f, "{status}"),
            },
            Self::TimedOut(limit) => {
                write!(
                    f,
                    "not finished after {} s, killed",
                    limit.as_secs_f32().ceil()
                )
            }
            Self::TooMuchOutput(limit) => write!(f, "more than {limit} bytes of output, killed"),
        }
    }
}

/// Arranges that SIGINT, SIGTERM and SIGHUP end the children before xtask. Call once, first thing.
pub fn kill_children_on_signals() -> Result<()> {
    ctrlc::set_handler(|| {
        // Held until the exit, so that no child can start after the kill.
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        for &group in running.iter() {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        std::process::exit(130);
    })
    .context("cannot install the signal handler")
}

/// Runs `command` to its end and tells `watch` each line as it comes.
///
/// The child gets no standard input and a process group of its own. The group is killed at a limit, on a signal to xtask, and
/// (through the kernel, for the child itself) when xtask is killed.
///
/// # Errors
/// When the program cannot be started; its failing is not an error here, see [`End`].
pub fn run(mut command: Command, limits: Limits, watch: &mut dyn FnMut(Event<'_>)) -> Result<End> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let started = Instant::now();
    let mut running = Running::start(&mut command)?;
    let (sender, chunks) = mpsc::sync_channel(64);
    read_chunks(running.child.stdout.take(), Stream::Out, sender.clone());
    read_chunks(running.child.stderr.take(), Stream::Err, sender);

    let mut lines = [LineBuffer::default(), LineBuffer::default()];
    let mut received = 0;
    loop {
        let left = limits
            .time
            .map(|limit| limit.saturating_sub(started.elapsed()));
        match chunks.recv_timeout(left.unwrap_or(TICK).min(TICK)) {
            Ok((stream, bytes)) => {
                received += bytes.len();
                lines[stream as usize].push(&bytes, &mut |line| watch(Event::Line(stream, line)));
            }
            Err(RecvTimeoutError::Timeout) => watch(Event::Tick),
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if let Some(limit) = limits.time.filter(|&limit| started.elapsed() >= limit) {
            running.kill();
            flush(lines, watch);
            return Ok(End::TimedOut(limit));
        }
        if received > limits.output {
            running.kill();
            flush(lines, watch);
            return Ok(End::TooMuchOutput(limits.output));
        }
    }
    flush(lines, watch);
    Ok(End::Exited(running.wait()?))
}

/// Runs `command` and returns what it wrote to standard output.
///
/// # Errors
/// When it cannot be started or does not end with status 0; the message carries what it wrote to standard error.
pub fn output(command: Command) -> Result<String> {
    let shown = render(&command);
    let (mut out, mut err) = (String::new(), String::new());
    let end = run(command, Limits::TOOL, &mut |event| {
        if let Event::Line(stream, line) = event {
            let text = if stream == Stream::Out {
                &mut out
            } else {
                &mut err
            };
            text.push_str(line);
            text.push('\n');
        }
    })?;
    anyhow::ensure!(end.success(), "{shown}: {end}\n{}", err.trim_end());
    Ok(out)
}

/// The command as a person can paste it into a shell.
pub fn render(command: &Command) -> String {
    let variables = command.get_envs().filter_map(|(name, value)| {
        Some(format!(
            "{}={}",
            name.to_string_lossy(),
            quote(&value?.to_string_lossy())
        ))
    });
    let words = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| quote(&word.to_string_lossy()));
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+,.:/@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A started child; dropping it kills its process group.
struct Running {
    child: Child,
    group: i32,
    ended: bool,
}

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        command.process_group(0);
        // SAFETY: between fork and exec the closure makes one system call, prctl, which is async-signal-safe and allocates nothing.
        unsafe {
            command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
        }
        let mut groups = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let child = command.spawn().with_context(|| {
            format!(
                "cannot start `{}`; is it installed and executable?",
                command.get_program().to_string_lossy()
            )
        })?;
        let group = i32::try_from(child.id()).context("process id out of range")?;
        groups.insert(group);
        Ok(Self {
            child,
            group,
            ended: false,
        })
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        let status = self.child.wait().context("cannot wait for a child")?;
        self.ended = true;
        Ok(status)
    }

    fn kill(&mut self) {
        let _ = killpg(Pid::from_raw(self.group), Signal::SIGKILL);
        let _ = self.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.kill();
        }
        RUNNING
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.group);
    }
}

fn read_chunks(
    source: Option<impl Read + Send + 'static>,
    stream: Stream,
    sender: SyncSender<(Stream, Vec<u8>)>,
) {
    let Some(mut source) = source else { return };
    std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(length @ 1..) = source.read(&mut buffer) {
            if sender.send((stream, buffer[..length].to_vec())).is_err() {
                return;
            }
        }
    });
}

/// Bytes of a line that has not ended yet.
#[derive(Default)]
struct LineBuffer(Vec<u8>);

impl LineBuffer {
    fn push(&mut self, bytes: &[u8], tell: &mut dyn FnMut(&str)) {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_line(tell);
            } else {
                self.0.push(byte);
            }
        }
    }

    fn end_line(&mut self, tell: &mut dyn FnMut(&str)) {
        let line = String::from_utf8_lossy(&self.0);
        tell(line.trim_end_matches('\r'));
        self.0.clear();
    }
}

fn flush(lines: [LineBuffer; 2], watch: &mut dyn FnMut(Event<'_>)) {
    for (mut buffer, stream) in lines.into_iter().zip([Stream::Out, Stream::Err]) {
        if !buffer.0.is_empty() {
            buffer.end_line(&mut |line| watch(Event::Line(stream, line)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limits: Limits) -> (End, Vec<String>) {
        let mut lines = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let end = run(command, limits, &mut |event| {
            if let Event::Line(_, line) = event {
                lines.push(line.to_owned());
            }
        });
        (end.expect("sh starts"), lines)
    }

    #[test]
    fn tells_each_line_and_the_status() {
        let (end, lines) = shell("printf 'one\\r\\ntwo'; exit 7", Limits::TOOL);
        assert_eq!(end.code(), Some(7));
        assert_eq!(lines, ["one", "two"]);
    }

    #[test]
    fn kills_the_whole_group_at_the_time_limit() {
        let limits = Limits {
            time: Some(Duration::from_millis(300)),
            ..Limits::TOOL
        };
        // The grandchild keeps the pipe open; only killing the group lets this return.
        let (end, lines) = shell("sleep 1000 & echo $!; wait", limits);
        assert!(matches!(end, End::TimedOut(_)));
        let grandchild = Pid::from_raw(lines[0].parse().expect("a process id"));
        let gone = || {
            let state = std::fs::read_to_string(format!("/proc/{grandchild}/stat"));
            state.map_or(true, |stat| stat.contains(") Z"))
        };
        for _ in 0..1000 {
            if gone() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the grandchild outlived its limit");
    }

    #[test]
    fn kills_at_the_output_limit() {
        let limits = Limits {
            time: None,
            output: 1000,
        };
        let (end, _) = shell("while :; do echo flood; done", limits);
        assert_eq!(end, End::TooMuchOutput(1000));
    }

    #[test]
    fn rendered_commands_can_be_pasted() {
        let mut command = Command::new("qemu");
        command.args(["-append", "run=scenario it's"]).env("A", "b");
        assert_eq!(render(&command), r"A=b qemu -append 'run=scenario it'\''s'");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(Command::new("/nonexistent/tool"), Limits::TOOL, &mut |_| ());
        let message = format!("{:#}", error.expect_err("it does not exist"));
        assert!(message.contains("/nonexistent/tool"), "{message}");
    }
}
