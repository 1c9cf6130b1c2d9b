//! A table of the configuration file, whose keys are taken one by one: what is left over is not
//! known, and named with the nearest that is. Every error has its place.

use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ConfigError;

/// How much alike two keys have to be for one to be meant by the other (1 is equal).
const ALIKE_MIN: f64 = 0.7;

/// The text of a file, for who needs to tell where in it something stands.
#[derive(Debug, Clone)]
pub(super) struct Source<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

/// A place in the configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1.
    pub line: usize,
}

impl Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, line {}", self.path.display(), self.line)
    }
}

impl Source<'_> {
    pub(super) fn place(&self, span: &Range<usize>) -> Place {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        Place {
            path: self.path.to_owned(),
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
        }
    }
}

/// A value, and where it stands.
#[derive(Debug)]
pub(super) struct Value<'a> {
    pub(super) key: String,
    pub(super) place: Place,
    value: DeValue<'a>,
}

impl Value<'_> {
    pub(super) fn wrong(&self, reason: impl Display) -> ConfigError {
        ConfigError::File {
            place: self.place.clone(),
            reason: format!("'{}': {reason}", self.key),
        }
    }

    pub(super) fn string(&self) -> Result<String, ConfigError> {
        match &self.value {
            DeValue::String(text) => Ok(text.to_string()),
            other => Err(self.wrong(format!("a string is wanted, and this is {}", kind(other)))),
        }
    }

    pub(super) fn bool(&self) -> Result<bool, ConfigError> {
        match &self.value {
            DeValue::Boolean(value) => Ok(*value),
            other => Err(self.wrong(format!(
                "true or false is wanted, and this is {}",
                kind(other)
            ))),
        }
    }

    /// A whole number within a range.
    pub(super) fn number(&self, max: u32) -> Result<u32, ConfigError> {
        let number = match &self.value {
            DeValue::Integer(number) => u32::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        let wrong = || self.wrong(format!("a whole number from 0 to {max} is wanted"));
        number.filter(|number| *number <= max).ok_or_else(wrong)
    }

    /// As it would stand on the command line; several of an array.
    pub(super) fn texts(&self) -> Result<Vec<String>, ConfigError> {
        match &self.value {
            DeValue::Array(all) => all.iter().map(|each| self.text(each.get_ref())).collect(),
            one => Ok(vec![self.text(one)?]),
        }
    }

    pub(super) fn is_array(&self) -> bool {
        matches!(self.value, DeValue::Array(_))
    }

    fn text(&self, value: &DeValue<'_>) -> Result<String, ConfigError> {
        match value {
            DeValue::String(text) => Ok(text.to_string()),
            DeValue::Integer(number) => {
                let parsed = i64::from_str_radix(number.as_str(), number.radix());
                let parsed = parsed.map_err(|_| self.wrong("the number is too large"))?;
                Ok(parsed.to_string())
            }
            DeValue::Float(number) => Ok(number.as_str().to_owned()),
            DeValue::Boolean(value) => Ok(value.to_string()),
            other => Err(self.wrong(format!(
                "a string, a number, true or false is wanted, and this is {}",
                kind(other)
            ))),
        }
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a time of day",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// A table whose keys are taken one by one.
pub(super) struct Table<'a> {
    source: Source<'a>,
    /// How messages call it: nothing for the file itself.
    name: String,
    pub(super) place: Place,
    left: Vec<Value<'a>>,
    known: Vec<String>,
}

impl<'a> Table<'a> {
    /// The whole file.
    pub(super) fn of_file(source: Source<'a>) -> Result<Table<'a>, ConfigError> {
        let parsed = DeTable::parse(source.text).map_err(|error| ConfigError::File {
            place: source.place(&error.span().unwrap_or_default()),
            reason: error.message().to_owned(),
        })?;
        Ok(Self::of(source, String::new(), parsed))
    }

    fn of(source: Source<'a>, name: String, table: Spanned<DeTable<'a>>) -> Table<'a> {
        let place = source.place(&table.span());
        let left = table.into_inner().into_iter().map(|(key, value)| Value {
            place: source.place(&key.span()),
            key: key.into_inner().into_owned(),
            value: value.into_inner(),
        });
        Table {
            left: left.collect(),
            known: Vec::new(),
            source,
            name,
            place,
        }
    }

    /// The value of a key, if it is there.
    pub(super) fn take(&mut self, key: &str) -> Option<Value<'a>> {
        self.known.push(key.to_owned());
        let at = self.left.iter().position(|value| value.key == key)?;
        Some(self.left.swap_remove(at))
    }

    /// The value of a key that has to be there.
    pub(super) fn need(&mut self, key: &str) -> Result<Value<'a>, ConfigError> {
        let missing = ConfigError::File {
            place: self.place.clone(),
            reason: format!("{} needs the key '{key}'", self.name),
        };
        self.take(key).ok_or(missing)
    }

    /// The tables `[[key]]`.
    pub(super) fn tables(&mut self, key: &str) -> Result<Vec<Table<'a>>, ConfigError> {
        let Some(value) = self.take(key) else {
            return Ok(Vec::new());
        };
        let wrong = value.wrong(format!("these are tables, each begins with [[{key}]]"));
        let DeValue::Array(all) = value.value else {
            return Err(wrong);
        };
        let mut tables = Vec::new();
        for each in all {
            let span = each.span();
            let DeValue::Table(table) = each.into_inner() else {
                return Err(wrong);
            };
            let table = Spanned::new(span, table);
            tables.push(Table::of(self.source.clone(), format!("[[{key}]]"), table));
        }
        Ok(tables)
    }

    /// A table below a key, if it is there.
    pub(super) fn table(&mut self, key: &str) -> Result<Option<Table<'a>>, ConfigError> {
        let Some(value) = self.take(key) else {
            return Ok(None);
        };
        let wrong = value.wrong("a table is wanted, such as { hourly = 24, daily = 7 }");
        let DeValue::Table(table) = value.value else {
            return Err(wrong);
        };
        let name = format!("'{key}' of {}", self.name);
        Ok(Some(Table {
            place: value.place,
            ..Table::of(self.source.clone(), name, Spanned::new(0..0, table))
        }))
    }

    /// Sees that nothing is left.
    pub(super) fn end(self) -> Result<(), ConfigError> {
        let Some(unknown) = self.left.first() else {
            return Ok(());
        };
        let place = if self.name.is_empty() {
            String::new()
        } else {
            format!(" in {}", self.name)
        };
        let hint = match nearest(&unknown.key, &self.known) {
            Some(known) => format!("; did you mean '{known}'?"),
            None => format!("; known are: {}", self.known.join(", ")),
        };
        Err(ConfigError::File {
            place: unknown.place.clone(),
            reason: format!("unknown key '{}'{place}{hint}", unknown.key),
        })
    }
}

/// The known key that is meant by another, if there is one like it.
fn nearest<'a>(unknown: &str, known: &'a [String]) -> Option<&'a str> {
    let unknown = unknown.to_lowercase().replace('_', "-");
    let alike = known
        .iter()
        .map(|known| (strsim::jaro_winkler(&unknown, known), known.as_str()));
    let best = alike.max_by(|one, other| one.0.total_cmp(&other.0))?;
    (best.0 >= ALIKE_MIN).then_some(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_that_is_meant_is_found_and_none_is_made_up() {
        let known = ["quota", "quota-inodes", "reservation", "log-level"].map(str::to_owned);
        assert_eq!(nearest("quto", &known), Some("quota"));
        assert_eq!(nearest("quota_inodes", &known), Some("quota-inodes"));
        assert_eq!(nearest("LogLevel", &known), Some("log-level"));
        assert_eq!(nearest("xyz", &known), None);
    }

    #[test]
    fn a_place_is_the_line_that_a_person_sees() {
        let path = Path::new("/etc/x.toml");
        let source = Source {
            path,
            text: "a = 1\n\nb = 2\n",
        };
        assert_eq!(source.place(&(0..1)).line, 1);
        assert_eq!(source.place(&(7..8)).line, 3);
        assert_eq!(source.place(&(900..901)).line, 1);
    }
}
