//! What of a configuration that is read again can change while the daemon runs.

use super::Config;

/// Flags whose values can change at any time. The exports of --socket-path and --export can too.
const LIVE: [&str; 6] = [
    "compact",
    "export",
    "log-level",
    "scrub-interval",
    "socket-path",
    "trim-interval",
];

impl Config {
    /// What `other` says that cannot change, one line for each.
    #[must_use]
    pub fn fixed_differences(&self, other: &Config) -> Vec<String> {
        let value = |config: &Config, name: &str| {
            let found = config.settings.iter().find(|each| each.name == name);
            found.map(|each| each.values.join(" "))
        };
        let both = self.settings.iter().chain(&other.settings);
        let mut names: Vec<_> = both.map(|each| each.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let fixed = names.into_iter().filter(|name| !LIVE.contains(name));
        let changed = fixed.filter_map(|name| {
            let (now, then) = (value(self, name), value(other, name));
            let named = |value: Option<String>| value.unwrap_or_else(|| "not set".to_owned());
            (now != then).then(|| {
                format!(
                    "{name} cannot change while the daemon runs: it stays {}, not {}",
                    named(now),
                    named(then)
                )
            })
        });
        changed.collect()
    }
}
