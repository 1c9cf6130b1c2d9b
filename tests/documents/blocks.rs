//! The code blocks of a document in Markdown.

/// A code block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Block {
    /// The line of its opening fence, from 1.
    pub line: usize,
    /// The word behind that.
    pub kind: String,
    pub text: String,
    /// Why it cannot be run here.
    pub not_run: Option<String>,
}

/// All of them. An error names what would be passed over: a block by indentation, which cannot say
/// what it is, or one that does not end.
pub fn blocks(text: &str) -> Result<Vec<Block>, String> {
    let mut all = Vec::new();
    let mut open: Option<Block> = None;
    let mut before = "";
    for (number, line) in (1..).zip(text.lines()) {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(kind)) => {
                let not_run = before.trim().strip_prefix("<!-- not run:");
                let not_run = not_run.and_then(|why| why.strip_suffix("-->"));
                open = Some(Block {
                    line: number,
                    kind: kind.trim().to_owned(),
                    text: String::new(),
                    not_run: not_run.map(|why| why.trim().to_owned()),
                });
            }
            (Some(_), Some("")) => all.extend(open.take()),
            (Some(block), _) => {
                block.text += line;
                block.text.push('\n');
            }
            (None, None) => {
                if before.is_empty() && line.starts_with("    ") {
                    return Err(format!("line {number}: a block by indentation: use ```sh"));
                }
            }
        }
        before = line;
    }
    match open {
        Some(block) => Err(format!("line {}: a block that does not end", block.line)),
        None => Ok(all),
    }
}

#[test]
fn blocks_are_found() {
    let text = "a\n\n```sh\nx\ny\n```\n\n<!-- not run: no QEMU -->\n```text\n    z\n```\n";
    let found = blocks(text).unwrap();
    assert_eq!(
        found,
        [
            Block {
                line: 3,
                kind: "sh".into(),
                text: "x\ny\n".into(),
                not_run: None
            },
            Block {
                line: 9,
                kind: "text".into(),
                text: "    z\n".into(),
                not_run: Some("no QEMU".into())
            }
        ]
    );
    assert!(blocks("a\n\n    indented\n").is_err());
    assert!(blocks("```sh\nx\n").is_err());
}
