//! What the guest kernel writes on its console: free text for people, and lines that begin with `@` for us.
//!
//! ```text
//! @begin <vtd|smmuv3|riscv> <scenario|control>
//! @sent <the command's 64-bit words, lowest first, 16 hexadecimal digits each>
//! @step <id> | <sentence> | commands=N doorbells=N waits=N
//! @note <text>
//! @error <text>
//! @end <ok|failed>
//! ```

use anyhow::{Context, Result, bail, ensure};

/// A VT-d descriptor in a 256-bit queue.
const MOST_WORDS: usize = 4;

/// A console's machine lines, checked and taken apart.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    /// `vtd scenario` and so on; nothing if the guest did not get that far.
    pub begin: Option<String>,
    /// Steps and notes in order.
    pub story: Vec<Told>,
    /// Every command that the guest says it put into a queue, in order.
    pub sent: Vec<Vec<u64>>,
    /// What went wrong, in the guest's words.
    pub errors: Vec<String>,
    /// Whether the guest says that all held; nothing if it did not come to its end.
    pub end: Option<bool>,
}

/// One thing that the guest tells.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// A step of the run.
    Step(Step),
    /// A remark between steps.
    Note(String),
}

/// One step of the run and what it cost.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// Short name, one word.
    pub id: String,
    /// What happened.
    pub sentence: String,
    /// The invalidation commands, doorbells and waits it took.
    pub cost: Cost,
    /// How many `@sent` lines came since the step before.
    pub sent: u64,
}

/// What something cost on the way to the IOMMU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Commands put into the queue, the waits among them.
    pub commands: u64,
    /// Writes of the queue's tail register.
    pub doorbells: u64,
    /// Waits for completion.
    pub waits: u64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.commands += other.commands;
        self.doorbells += other.doorbells;
        self.waits += other.waits;
    }
}

impl Transcript {
    /// Reads a whole console.
    ///
    /// # Errors
    /// When a line begins with `@` and is not as the module says, or comes out of place.
    pub fn parse(console: &str) -> Result<Self> {
        let mut transcript = Self::default();
        let mut sent_before = 0;
        for (index, line) in console.lines().enumerate() {
            let line = line.trim_end();
            if line.starts_with('@') {
                transcript
                    .take(line, &mut sent_before)
                    .with_context(|| format!("console line {}: `{line}`", index + 1))?;
            }
        }
        Ok(transcript)
    }

    /// All steps.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.story.iter().filter_map(|told| match told {
            Told::Step(step) => Some(step),
            Told::Note(_) => None,
        })
    }

    /// What all steps cost together.
    pub fn cost(&self) -> Cost {
        let mut sum = Cost::default();
        self.steps().for_each(|step| sum += step.cost);
        sum
    }

    fn take(&mut self, line: &str, sent_before: &mut usize) -> Result<()> {
        ensure!(self.end.is_none(), "comes after @end");
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "@begin" => {
                ensure!(self.begin.is_none(), "a second @begin");
                self.begin = Some(rest.to_owned());
            }
            "@step" => {
                let sent = self.sent.len() - *sent_before;
                *sent_before = self.sent.len();
                let step = parse_step(rest, sent as u64)?;
                ensure!(
                    self.steps().all(|earlier| earlier.id != step.id),
                    "a second step `{}`",
                    step.id
                );
                self.story.push(Told::Step(step));
            }
            "@sent" => self.sent.push(parse_words(rest)?),
            "@note" => self.story.push(Told::Note(rest.to_owned())),
            "@error" => self.errors.push(rest.to_owned()),
            "@end" => {
                self.end = Some(match rest {
                    "ok" => true,
                    "failed" => false,
                    _ => bail!("@end is followed by `ok` or `failed`"),
                });
            }
            _ => bail!("no such machine line"),
        }
        Ok(())
    }
}

fn parse_step(rest: &str, sent: u64) -> Result<Step> {
    let parts: Vec<&str> = rest.split(" | ").collect();
    let &[id, sentence, cost] = parts.as_slice() else {
        bail!("a step has three parts, parted by ` | `");
    };
    ensure!(
        !id.is_empty() && !id.contains(' '),
        "a step's id is one word"
    );
    ensure!(!sentence.trim().is_empty(), "a step has a sentence");
    let numbers: Vec<&str> = cost.split(' ').collect();
    let &[commands, doorbells, waits] = numbers.as_slice() else {
        bail!("a step's cost is `commands=N doorbells=N waits=N`");
    };
    Ok(Step {
        id: id.to_owned(),
        sentence: sentence.trim().to_owned(),
        cost: Cost {
            commands: parse_count(commands, "commands=")?,
            doorbells: parse_count(doorbells, "doorbells=")?,
            waits: parse_count(waits, "waits=")?,
        },
        sent,
    })
}

fn parse_count(text: &str, name: &str) -> Result<u64> {
    text.strip_prefix(name)
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("`{text}` is not `{name}N`"))
}

fn parse_words(rest: &str) -> Result<Vec<u64>> {
    let words = rest
        .split(' ')
        .map(|word| {
            ensure!(word.len() == 16, "`{word}` is not 16 hexadecimal digits");
            u64::from_str_radix(word, 16).with_context(|| format!("`{word}` is not hexadecimal"))
        })
        .collect::<Result<Vec<u64>>>()?;
    ensure!(
        words.len() == 2 || words.len() == MOST_WORDS,
        "a command has 2 or {MOST_WORDS} words"
    );
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "\
OpenSBI v1.7\r\n\
@begin riscv scenario\r\n\
found the IOMMU at 0x3010000\r\n\
@sent 0000000000000003 0000000000000000\r\n\
@sent 0000000000000002 0000000000000000\r\n\
@step bind | the device is bound | commands=2 doorbells=1 waits=1\r\n\
@note page size 4096\r\n\
@step read | the device reads what the CPU wrote | commands=0 doorbells=0 waits=0\r\n\
@end ok\r\n";

    #[test]
    fn reads_a_run() {
        let transcript = Transcript::parse(CONSOLE).expect("well formed");
        assert_eq!(transcript.begin.as_deref(), Some("riscv scenario"));
        assert_eq!(transcript.end, Some(true));
        assert_eq!(transcript.sent, [vec![3, 0], vec![2, 0]]);
        let steps: Vec<_> = transcript.steps().collect();
        assert_eq!(steps.len(), 2);
        assert_eq!((steps[0].id.as_str(), steps[0].sent), ("bind", 2));
        assert_eq!(steps[1].sentence, "the device reads what the CPU wrote");
        assert_eq!(steps[1].sent, 0);
        assert_eq!(transcript.cost().commands, 2);
        assert_eq!(transcript.story[1], Told::Note("page size 4096".to_owned()));
    }

    #[test]
    fn a_broken_off_run_has_no_end() {
        let transcript = Transcript::parse("@begin vtd control\n@error no DMAR table\n");
        let transcript = transcript.expect("well formed");
        assert_eq!(transcript.end, None);
        assert_eq!(transcript.errors, ["no DMAR table"]);
    }

    #[test]
    fn malformed_machine_lines_are_errors_that_quote_the_line() {
        for line in [
            "@stap x | y | commands=1 doorbells=1 waits=1",
            "@step x y | z | commands=1 doorbells=1 waits=1",
            "@step x | z | commands=1 doorbells=1",
            "@step x | z | commands=-1 doorbells=1 waits=1",
            "@step x | commands=1 doorbells=1 waits=1",
            "@sent 0000000000000003",
            "@sent 0000000000000003 000000000000000g",
            "@sent 000000000000003 0000000000000000",
            "@sent 0000000000000003  0000000000000000",
            "@end maybe",
            "@end",
            "@",
        ] {
            let error = Transcript::parse(&format!("text\n{line}\n"));
            let message = format!("{:#}", error.expect_err(line));
            assert!(message.contains("console line 2"), "{message}");
            assert!(message.contains(line), "{message}");
        }
    }

    #[test]
    fn lines_out_of_place_are_errors() {
        for console in [
            "@begin vtd scenario\n@begin vtd scenario\n",
            "@end ok\n@note more\n",
            "@step a | b | commands=0 doorbells=0 waits=0\n@step a | c | commands=0 doorbells=0 waits=0\n",
        ] {
            assert!(Transcript::parse(console).is_err(), "{console}");
        }
    }
}
