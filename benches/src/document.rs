//! Puts tables where a document has room for them: between `<!-- begin NAME -->` and
//! `<!-- end NAME -->`, each on a line of its own.

use std::path::Path;

use crate::Error;

/// Puts `text` into the room of this name.
///
/// # Errors
/// When the document cannot be read or written, or has no such room.
pub fn fill(path: &Path, name: &str, text: &str) -> Result<(), Error> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let before = std::fs::read_to_string(path).map_err(failed)?;
    let after = replaced(&before, name, text)
        .ok_or_else(|| format!("{} has no room for {name}", path.display()))?;
    Ok(std::fs::write(path, after).map_err(failed)?)
}

fn replaced(document: &str, name: &str, text: &str) -> Option<String> {
    let (begin, end) = (
        format!("<!-- begin {name} -->\n"),
        format!("<!-- end {name} -->"),
    );
    let (head, rest) = document.split_once(&begin)?;
    let (_, tail) = rest.split_once(&end)?;
    Some(format!("{head}{begin}\n{}\n\n{end}{tail}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let document = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb <!-- begin y -->";
        let wanted = "a\n<!-- begin x -->\n\nnew\n\n<!-- end x -->\nb <!-- begin y -->";
        assert_eq!(replaced(document, "x", "new\n\n").as_deref(), Some(wanted));
        assert_eq!(replaced(document, "y", "new"), None);
        assert_eq!(replaced(document, "z", "new"), None);
    }
}
