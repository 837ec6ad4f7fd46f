//! Checks that links between the repository's pages resolve: every relative link in a Markdown file leads to a file that exists, and
//! docs/src/SUMMARY.md lists every page of the book.

use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Markdown files read.
    pub pages: usize,
    /// Relative links followed.
    pub links: usize,
    /// A line for each link that leads nowhere or page that is not listed.
    pub broken: Vec<String>,
}

/// Checks the Markdown files below `root`, build output and hidden folders left out.
///
/// # Errors
/// When a folder or file cannot be read.
pub fn check(root: &Path) -> Result<Report> {
    let mut pages = Vec::new();
    collect(root, &mut pages)?;
    pages.sort();
    let mut report = Report {
        pages: pages.len(),
        ..Report::default()
    };
    for page in &pages {
        check_page(root, page, &mut report)?;
    }
    check_summary(root, &pages, &mut report)?;
    Ok(report)
}

fn collect(folder: &Path, pages: &mut Vec<PathBuf>) -> Result<()> {
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            if name != "target" && !name.starts_with('.') {
                collect(&path, pages)?;
            }
        } else if name.ends_with(".md") {
            pages.push(path);
        }
    }
    Ok(())
}

fn check_page(root: &Path, page: &Path, report: &mut Report) -> Result<()> {
    let text =
        fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
    let folder = page.parent().unwrap_or(root);
    for (line, link) in links(&text) {
        let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
        if file.contains("://") || file.starts_with("mailto:") {
            continue;
        }
        report.links += 1;
        let target = if file.is_empty() {
            page.to_owned()
        } else {
            folder.join(file)
        };
        let place = || {
            format!(
                "{}:{line}",
                page.strip_prefix(root).unwrap_or(page).display()
            )
        };
        if !target.exists() {
            report
                .broken
                .push(format!("{}: `{link}` leads nowhere", place()));
        } else if !anchor.is_empty()
            && target
                .extension()
                .is_some_and(|extension| extension == "md")
        {
            let headings = anchors(&fs::read_to_string(&target)?);
            if !headings.iter().any(|heading| heading == anchor) {
                report
                    .broken
                    .push(format!("{}: `{link}` names no heading there", place()));
            }
        }
    }
    Ok(())
}

/// Every page of the book must be reachable from its table of contents.
fn check_summary(root: &Path, pages: &[PathBuf], report: &mut Report) -> Result<()> {
    let book = root.join("docs/src");
    let summary = book.join("SUMMARY.md");
    if !summary.exists() {
        return Ok(());
    }
    let text = fs::read_to_string(&summary)?;
    let listed: Vec<PathBuf> = links(&text)
        .map(|(_, link)| normal(&book.join(link)))
        .collect();
    for page in pages
        .iter()
        .filter(|page| page.starts_with(&book) && **page != summary)
    {
        if !listed.contains(&normal(page)) {
            let name = page.strip_prefix(root).unwrap_or(page).display();
            report
                .broken
                .push(format!("{name}: not listed in docs/src/SUMMARY.md"));
        }
    }
    Ok(())
}

/// `path` with `.` and `..` resolved by name.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal
}

/// The lines outside fenced code blocks, numbered from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        (!fenced && !fence).then_some((index + 1, line))
    })
}

/// Targets of `[text](target)` with their lines; code spans and code blocks do not count.
fn links(text: &str) -> impl Iterator<Item = (usize, &str)> {
    prose(text).flat_map(|(number, line)| {
        // Of a line split at backticks, every second piece is code; a link's text may hold code, so only the target must not.
        let mut code = false;
        let mut found = Vec::new();
        for piece in line.split('`') {
            if !code {
                found.extend(
                    piece
                        .split("](")
                        .skip(1)
                        .filter_map(|rest| rest.split_once(')')),
                );
            }
            code = !code;
        }
        found
            .into_iter()
            .map(move |(target, _)| (number, target.split(' ').next().unwrap_or(target)))
    })
}

/// The anchors that mdBook and GitHub give the headings of a page.
fn anchors(text: &str) -> Vec<String> {
    prose(text)
        .filter_map(|(_, line)| line.strip_prefix('#'))
        .map(|heading| {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let keep = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
            heading
                .chars()
                .filter(keep)
                .collect::<String>()
                .replace(' ', "-")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_links_but_not_in_code() {
        let text = "see [a](a.md) and [`b`](b.md#x \"title\")\n`[c](c.md)`\n```\n[d](d.md)\n```\n[e](e.md)";
        let found: Vec<_> = links(text).collect();
        assert_eq!(found, [(1, "a.md"), (1, "b.md#x"), (6, "e.md")]);
    }

    #[test]
    fn anchors_are_as_mdbook_makes_them() {
        assert_eq!(
            anchors("# The one promise\n## 3. `Words`, and more\n"),
            ["the-one-promise", "3-words-and-more"]
        );
    }

    #[test]
    fn broken_links_and_unlisted_pages_are_reported() -> Result<()> {
        let root = std::env::temp_dir().join(format!("xtask-links-{}", std::process::id()));
        let book = root.join("docs/src");
        fs::create_dir_all(&book)?;
        fs::write(book.join("SUMMARY.md"), "- [One](./one.md)\n")?;
        fs::write(
            book.join("one.md"),
            "# One\n[good](../../README.md#title) [gone](two.md) [no](#nowhere)\n",
        )?;
        fs::write(book.join("three.md"), "[out](https://example.org/x)\n")?;
        fs::write(root.join("README.md"), "# Title\n")?;
        let report = check(&root)?;
        fs::remove_dir_all(&root)?;
        assert_eq!((report.pages, report.links), (4, 4));
        assert_eq!(
            report.broken,
            [
                "docs/src/one.md:2: `two.md` leads nowhere",
                "docs/src/one.md:2: `#nowhere` names no heading there",
                "docs/src/three.md: not listed in docs/src/SUMMARY.md",
            ]
        );
        Ok(())
    }
}
