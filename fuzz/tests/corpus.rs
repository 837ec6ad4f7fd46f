//! The committed inputs, without a fuzzer: `corpus/` is what fuzzing reached, `regressions/` what it
//! found.

use std::fs;
use std::path::Path;

/// Runs each target on each of its inputs in `folder`; how many there were.
fn run(folder: &str) -> usize {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut inputs = 0;
    for (name, target) in shootdown_fuzz::TARGETS {
        let Ok(entries) = fs::read_dir(root.join(name)) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("the folder can be listed").path();
            println!("{}", path.display());
            target(&fs::read(&path).expect("the input can be read"));
            inputs += 1;
        }
    }
    inputs
}

#[test]
fn inputs_that_were_kept_break_no_promise() {
    assert!(run("corpus") > 0, "the corpora are missing");
    run("regressions");
}
