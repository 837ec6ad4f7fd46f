//! The machine's apt sources: which mirror of Debian's archive it is set up to use.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};

/// One archive that the machine's apt uses.
#[derive(Debug, Default, PartialEq, Eq)]
struct Source {
    uri: String,
    suites: Vec<String>,
    signed_by: String,
}

impl Source {
    /// Whether this is Debian's main archive or a mirror of it.
    fn is_debian(&self) -> bool {
        let security_only = self.suites.iter().all(|suite| suite.ends_with("-security"));
        let by_path = self.uri.trim_end_matches('/').ends_with("/debian");
        !security_only && (by_path || self.signed_by.contains("debian-archive-"))
    }
}

/// The mirror in the apt configuration folder `etc_apt`.
///
/// # Errors
/// When no source there is Debian's archive.
pub fn mirror(etc_apt: &Path) -> Result<String> {
    let mut files = vec![etc_apt.join("sources.list")];
    if let Ok(entries) = fs::read_dir(etc_apt.join("sources.list.d")) {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    files.sort();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        let sources = match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => stanzas(&text),
            Some("list") => one_line_sources(&text),
            _ => continue,
        };
        if let Some(source) = sources.into_iter().find(Source::is_debian) {
            return Ok(source.uri);
        }
    }
    bail!(
        "no mirror of Debian's archive is configured in {}; add one, or install QEMU 11.1 or newer and set SHOOTDOWN_QEMU to its folder",
        etc_apt.display()
    )
}

/// Reads the deb822 form: stanzas of `Field: value`, continued by indented lines, parted by empty lines.
fn stanzas(text: &str) -> Vec<Source> {
    let without_comments: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    without_comments
        .split(|line| line.trim().is_empty())
        .filter_map(stanza)
        .collect()
}

fn stanza(lines: &[&str]) -> Option<Source> {
    let mut source = Source::default();
    let (mut binary, mut enabled) = (false, true);
    for line in lines {
        let Some((field, value)) = line.split_once(':') else {
            continue;
        };
        let mut words = value.split_whitespace();
        match field.to_ascii_lowercase().as_str() {
            "types" => binary = words.any(|word| word == "deb"),
            "enabled" => enabled = !words.any(|word| word.eq_ignore_ascii_case("no")),
            "uris" => source.uri = words.next().unwrap_or_default().to_owned(),
            "suites" => source.suites = words.map(str::to_owned).collect(),
            "signed-by" => value.trim().clone_into(&mut source.signed_by),
            _ => {}
        }
    }
    (binary && enabled && !source.uri.is_empty()).then_some(source)
}

/// Reads the one-line form: `deb [options] uri suite components`.
fn one_line_sources(text: &str) -> Vec<Source> {
    text.lines().filter_map(one_line_source).collect()
}

fn one_line_source(line: &str) -> Option<Source> {
    let rest = line.trim().strip_prefix("deb ")?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(inside) => inside.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    Some(Source {
        uri: words.next()?.to_owned(),
        suites: vec![words.next()?.to_owned()],
        signed_by: options.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb
# a comment inside a stanza
URIs: http://mirror.example/debian-security
Suites: trixie-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb deb-src
URIs: http://mirror.example/debian
Suites: trixie trixie-updates
Components: main
";

    #[test]
    fn finds_the_main_archive_and_not_the_security_one() {
        let found: Vec<_> = stanzas(DEB822)
            .into_iter()
            .filter(Source::is_debian)
            .collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].uri, "http://mirror.example/debian");
        assert_eq!(found[0].suites, ["trixie", "trixie-updates"]);
    }

    #[test]
    fn a_mirror_list_is_recognised_by_its_key() {
        let text = "Types: deb\nURIs: mirror+file:///etc/apt/mirrors/debian.list\nSuites: bookworm\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n";
        assert!(stanzas(text)[0].is_debian());
    }

    #[test]
    fn reads_the_one_line_form() {
        let text = "# deb http://old.example/debian bookworm main\n\
            deb http://other.example/tools stable main\n\
            deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian/ bookworm main contrib\n";
        let found: Vec<_> = one_line_sources(text)
            .into_iter()
            .filter(Source::is_debian)
            .collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].uri, "http://mirror.example/debian/");
    }

    #[test]
    fn disabled_source_only_and_foreign_stanzas_do_not_count() {
        let disabled = "Types: deb\nEnabled: no\nURIs: http://mirror.example/debian\nSuites: sid\n";
        let source_only = "Types: deb-src\nURIs: http://mirror.example/debian\nSuites: sid\n";
        let foreign = "Types: deb\nURIs: http://other.example/node\nSuites: nodistro\n";
        assert!(stanzas(disabled).is_empty());
        assert!(stanzas(source_only).is_empty());
        assert!(!stanzas(foreign)[0].is_debian());
    }

    #[test]
    fn without_a_mirror_the_error_says_what_to_do() {
        let error = mirror(Path::new("/nonexistent")).expect_err("nothing is there");
        assert!(error.to_string().contains("SHOOTDOWN_QEMU"), "{error}");
    }
}
