//! The examples in configs/, and --check-config, which opens and makes nothing.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn check(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_razorfsd"))
        .arg("--check-config")
        .args(args)
        .output()
        .unwrap()
}

fn examples() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let all = std::fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().path());
    let mut examples: Vec<_> = all
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    examples.sort();
    examples
}

#[test]
fn each_example_is_in_order_and_warns_of_nothing_but_what_it_is_about() {
    let examples = examples();
    let names: Vec<_> = examples
        .iter()
        .map(|path| path.file_stem().unwrap().to_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "golden-image",
            "kata",
            "many-guests",
            "scratch",
            "single-guest"
        ]
    );
    for path in &examples {
        let file = format!("--config={}", path.display());
        let text = check(&[&file]);
        let said = String::from_utf8(text.stdout).unwrap();
        assert!(
            text.status.success() && text.stderr.is_empty(),
            "{said} {:?}",
            text.stderr
        );
        assert!(
            said.contains("store ") && said.contains(", line "),
            "{said}"
        );
        let json = check(&[&file, "--json"]);
        let json: Value = serde_json::from_slice(&json.stdout).unwrap();
        let empty = Value::Array(Vec::new());
        assert_eq!(
            (&json["warnings"], &json["notes"]),
            (&empty, &empty),
            "{}",
            path.display()
        );
        let exports = json["exports"].as_array().unwrap().len();
        let has_dir = json["settings"]
            .as_array()
            .unwrap()
            .iter()
            .any(|each| each["name"] == "socket-dir");
        assert!(exports > 0 || has_dir);
    }
}

#[test]
fn what_is_wrong_ends_with_1_and_nothing_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let (file, store) = (dir.path().join("c.toml"), dir.path().join("store"));
    let (socket, store) = (dir.path().join("s"), store.display());
    let good = format!("store = '{store}'\nsocket-path = '{}'\n", socket.display());
    std::fs::write(&file, &good).unwrap();
    let named = format!("--config={}", file.display());
    assert_eq!(check(&[&named]).status.code(), Some(0));
    for (text, flags, words) in [
        (
            good.clone() + "poll-us = 'x'\n",
            &[] as &[&str],
            "c.toml, line 3: 'poll-us': 'x'",
        ),
        (
            good.clone() + "pol-us = 1\n",
            &[],
            "did you mean 'poll-us'?",
        ),
        (good.clone(), &["--cache=some"], "--cache"),
        (good.clone(), &["--frobnicate"], "--frobnicate"),
        (good.clone(), &["--poll-us=99999"], "--poll-us"),
        (String::new(), &[], "--socket-path"),
    ] {
        std::fs::write(&file, text).unwrap();
        let done = check(&[&[named.as_str()], flags].concat());
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(said.contains(words), "{said}");
    }
    std::fs::remove_file(&file).unwrap();
    let gone = check(&[&named]);
    assert_eq!(gone.status.code(), Some(1));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
