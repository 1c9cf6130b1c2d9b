//! What is in force, for people and for programs: `--check-config`.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Config, Endpoint, ExportConfig, SaidBy};
use crate::schedule::{Keep, Schedule, Which};

impl Config {
    /// All that is in force, and who said so.
    #[must_use]
    pub fn as_text(&self) -> String {
        let mut text = String::new();
        let width = self.settings.iter().map(|each| each.name.len()).max();
        let width = width.unwrap_or(0);
        for each in &self.settings {
            let (name, values) = (&each.name, each.values.join(" "));
            let source = match &each.source {
                SaidBy::Default => String::new(),
                SaidBy::Flag => "  (command line)".to_owned(),
                SaidBy::File(place) => format!("  ({place})"),
            };
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name:width$}  {values}{source}");
        }
        for ExportConfig { new, options } in &self.exports {
            let tag = new.tag.as_ref().or(self.device.tag.as_ref());
            let tag = tag.map_or(String::new(), |tag| format!(", tag '{tag}'"));
            let read_only = if options.read_only { ", read-only" } else { "" };
            let shared = if options.shared { ", shared" } else { "" };
            let (dataset, endpoint) = (&new.dataset, &new.endpoint);
            let cache = options.cache.name();
            let _ = writeln!(
                text,
                "{:width$}  {dataset} on {endpoint}{tag}, cache {cache}{read_only}{shared}",
                "export"
            );
        }
        for schedule in &self.schedules {
            let _ = writeln!(text, "{:width$}  {schedule}", "snapshots");
        }
        for note in &self.notes {
            let _ = writeln!(text, "note: {note}");
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "warning: {warning}");
        }
        text
    }

    /// The same as JSON.
    #[must_use]
    pub fn as_json(&self) -> Value {
        let settings = self.settings.iter().map(|each| {
            let mut value = json!({ "name": each.name, "values": each.values });
            let source = match &each.source {
                SaidBy::Default => json!({ "from": "default" }),
                SaidBy::Flag => json!({ "from": "command line" }),
                SaidBy::File(place) => {
                    json!({ "from": "file", "file": place.path, "line": place.line })
                }
            };
            if let (Some(fields), Value::Object(more)) = (value.as_object_mut(), source) {
                fields.extend(more);
            }
            value
        });
        json!({
            "settings": settings.collect::<Vec<_>>(),
            "exports": self.exports.iter().map(|each| self.export(each)).collect::<Vec<_>>(),
            "snapshots": self.schedules.iter().map(schedule).collect::<Vec<_>>(),
            "notes": self.notes,
            "warnings": self.warnings,
        })
    }

    fn export(&self, ExportConfig { new, options }: &ExportConfig) -> Value {
        let socket = match &new.endpoint {
            Endpoint::Path(path) => path.display().to_string(),
            fd @ Endpoint::Fd(_) => fd.to_string(),
        };
        json!({
            "dataset": new.dataset,
            "socket": socket,
            "tag": new.tag.as_ref().or(self.device.tag.as_ref()),
            "readonly": options.read_only,
            "shared": options.shared,
            "cache": options.cache.name(),
        })
    }
}

fn schedule(schedule: &Schedule) -> Value {
    let dataset = match &schedule.which {
        Which::All => "*",
        Which::Named(name) => name,
    };
    let keep = |keep: &Keep| {
        json!({
            "last": keep.last,
            "hourly": keep.hourly,
            "daily": keep.daily,
            "weekly": keep.weekly,
            "monthly": keep.monthly,
            "yearly": keep.yearly,
        })
    };
    json!({
        "dataset": dataset,
        "every_seconds": schedule.every.as_secs(),
        "prefix": schedule.prefix,
        "keep": schedule.keep.as_ref().map(keep),
    })
}
