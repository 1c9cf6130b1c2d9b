//! The code blocks of a document in Markdown, and what the lines around them say.

/// A code block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Block {
    /// The line of its opening fence, from 1.
    pub line: usize,
    /// The word behind that.
    pub kind: String,
    pub text: String,
    /// The script that runs it, as it stands there.
    pub run_by: Option<String>,
    /// What is run before it.
    pub first: Option<String>,
    /// What is run behind it.
    pub then: Option<String>,
}

/// All of them. An error names what would be passed over: a block by indentation, within a list or by
/// another fence, one that does not end, and a line around one that says what is not known.
pub fn blocks(text: &str) -> Result<Vec<Block>, String> {
    let mut all: Vec<Block> = Vec::new();
    let mut open: Option<Block> = None;
    let mut before = "";
    for (number, line) in (1..).zip(text.lines()) {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(kind)) => {
                let mut block = Block {
                    line: number,
                    kind: kind.trim().to_owned(),
                    ..Block::default()
                };
                match said(before) {
                    None | Some(("then:", _)) => {}
                    Some(("run by", script)) => block.run_by = Some(script.to_owned()),
                    Some(("first:", command)) => block.first = Some(command.to_owned()),
                    Some(_) => return Err(format!("line {number}: what is '{before}'?")),
                }
                open = Some(block);
            }
            (Some(_), Some("")) => all.extend(open.take()),
            (Some(block), _) => {
                block.text += line;
                block.text.push('\n');
            }
            (None, None) => {
                let is_fence = line.trim_start().starts_with("```") || line.starts_with("~~~");
                if is_fence || (before.is_empty() && line.starts_with("    ")) {
                    return Err(format!("line {number}: a block, but not by ```sh"));
                }
                if let Some(("run by" | "first:", _)) = said(before) {
                    return Err(format!(
                        "line {number}: there is no block behind '{before}'"
                    ));
                }
                match (said(line), all.last_mut()) {
                    (Some(("then:", command)), Some(block)) if before == "```" => {
                        block.then = Some(command.to_owned());
                    }
                    (Some(("then:", _)), _) => {
                        return Err(format!("line {number}: it is not behind a block"));
                    }
                    _ => {}
                }
            }
        }
        before = line;
    }
    let idle = |block: &&Block| {
        let said = block.run_by.as_ref().or(block.first.as_ref());
        block.kind != "sh" && said.or(block.then.as_ref()).is_some()
    };
    match (open, all.iter().find(idle)) {
        (Some(block), _) => Err(format!("line {}: a block that does not end", block.line)),
        (None, Some(block)) => Err(format!("line {}: that is not run at all", block.line)),
        (None, None) => Ok(all),
    }
}

/// What a comment says of a block: `run by`, `first:`, `then:` or what is not known, and the rest.
fn said(line: &str) -> Option<(&str, &str)> {
    let comment = line.strip_prefix("<!--")?.strip_suffix("-->")?.trim();
    let known = ["run by", "first:", "then:"];
    let known = known.into_iter().find(|word| comment.starts_with(word));
    Some(match known {
        Some(word) => (word, comment.strip_prefix(word).unwrap_or_default().trim()),
        None => ("", comment),
    })
}

#[test]
fn blocks_are_found() {
    let text = "a\n\n```sh\nx\ny\n```\n\n<!-- run by scripts/x.sh -->\n```sh\n    z\n```\n\
        <!-- first: touch a -->\n```sh\nb\n```\n<!-- then: test -e a -->\n```text\nc\n```\n";
    let found = blocks(text).unwrap();
    let block = |line: usize, text: &str| Block {
        line,
        kind: "sh".into(),
        text: text.into(),
        ..Block::default()
    };
    assert_eq!(
        found,
        [
            block(3, "x\ny\n"),
            Block {
                run_by: Some("scripts/x.sh".into()),
                ..block(9, "    z\n")
            },
            Block {
                first: Some("touch a".into()),
                then: Some("test -e a".into()),
                ..block(13, "b\n")
            },
            Block {
                kind: "text".into(),
                ..block(17, "c\n")
            },
        ]
    );
}

#[test]
fn what_would_not_be_run_is_an_error() {
    for text in [
        "a\n\n    indented\n",
        "```sh\nx\n",
        "- a\n  ```sh\n  x\n  ```\n",
        "~~~\nx\n~~~\n",
        "<!-- not run: no QEMU -->\n```sh\nx\n```\n",
        "<!-- run by scripts/x.sh -->\n\n```sh\nx\n```\n",
        "<!-- run by scripts/x.sh -->\n```text\nx\n```\n",
        "```text\nx\n```\n<!-- then: y -->\n",
        "```sh\nx\n```\n\n<!-- then: y -->\n",
    ] {
        assert!(blocks(text).is_err(), "{text}");
    }
}
