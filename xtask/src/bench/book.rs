//! The tables and plots in the book.

use std::fs;

use anyhow::{Context, Result, ensure};

use super::plot::Plot;
use super::{FAMILIES, Report};
use crate::workspace;

const END: &str = "<!-- end -->\n";

/// Replaces what stands between the markers of `performance.md`, and the plots beside it.
///
/// # Errors
/// When the page or its markers are missing, or something cannot be written.
pub fn write(report: &Report<'_>) -> Result<()> {
    for family in FAMILIES {
        let plot = Plot {
            title: family.title,
            groups: family.groups.iter().map(|(_, head)| *head).collect(),
            cases: report.medians(family),
        };
        write_plot(family.name, &plot)?;
    }
    write_section("notifier", &section(report))
}

/// Replaces what stands between the markers of `subject` on the page.
///
/// # Errors
/// When the page or its markers are missing, or it cannot be written.
pub fn write_section(subject: &str, section: &str) -> Result<()> {
    let folder = workspace::root().join("docs/src");
    let page = folder.join("performance.md");
    let text =
        fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let text = between_markers(&text, subject, section)?;
    fs::write(&page, text).with_context(|| format!("cannot write {}", page.display()))
}

/// Writes a plot beside the page.
///
/// # Errors
/// When it cannot be written.
pub fn write_plot(name: &str, plot: &Plot<'_>) -> Result<()> {
    let plots = workspace::root().join("docs/src/performance");
    fs::create_dir_all(&plots).with_context(|| format!("cannot create {}", plots.display()))?;
    let path = plots.join(format!("{name}.svg"));
    fs::write(&path, plot.svg()).with_context(|| format!("cannot write {}", path.display()))
}

fn between_markers(page: &str, subject: &str, section: &str) -> Result<String> {
    let begin = format!("<!-- begin: cargo xtask bench {subject} --docs -->\n");
    let (before, rest) = page
        .split_once(&begin)
        .with_context(|| format!("the page has no line {begin}"))?;
    let after = rest.split_once(END).map(|(_, after)| after);
    ensure!(after.is_some(), "the page has no line {END}");
    Ok(format!(
        "{before}{begin}{section}{END}{}",
        after.unwrap_or_default()
    ))
}

fn section(report: &Report<'_>) -> String {
    let mut section = format!(
        "\nMeasured on: {}.\n\n{}\n",
        report.machine,
        report.verdicts().markdown()
    );
    for family in FAMILIES {
        section += &format!(
            "### {title}\n\n![{title}: medians of every case](performance/{name}.svg)\n\n{table}\n",
            title = family.title,
            name = family.name,
            table = report.times(family).markdown()
        );
    }
    section
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let begin = "<!-- begin: cargo xtask bench notifier --docs -->\n";
        let page = format!("a\n{begin}old\n{END}b\n");
        let expected = format!("a\n{begin}new\n{END}b\n");
        assert_eq!(
            between_markers(&page, "notifier", "new\n").unwrap(),
            expected
        );
        assert!(between_markers("a\n", "notifier", "new\n").is_err());
    }
}
