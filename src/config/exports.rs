//! What is exported where: `--socket-path`, `--fd` and `--export`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::values::{tag, value};
use super::{ConfigError, Endpoint, ExportConfig};
use crate::fs::{CacheMode, Options};

const OPTION: &str = "--export";

/// A dataset that one guest at a time may use, as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) dataset: String,
    pub(super) endpoint: Endpoint,
    pub(super) tag: Option<String>,
    pub(super) read_only: bool,
}

impl Asked {
    /// Reads `DATASET:SOCKET[:TAG][:ro]`.
    pub(super) fn parse(text: &str) -> Result<Asked, ConfigError> {
        let wrong = |reason: &str| {
            let reason = format!("'{text}': {reason}; it is DATASET:SOCKET[:TAG][:ro]");
            value(OPTION, reason)
        };
        let mut parts = text.split(':');
        let dataset = parts.next().filter(|name| !name.is_empty());
        let dataset = dataset.ok_or_else(|| wrong("no dataset"))?;
        let socket = parts.next().filter(|path| !path.is_empty());
        let socket = socket.ok_or_else(|| wrong("no socket"))?;
        let mut asked = Asked {
            dataset: dataset.to_owned(),
            endpoint: Endpoint::Path(PathBuf::from(socket)),
            tag: None,
            read_only: false,
        };
        for part in parts {
            match part {
                "ro" if !asked.read_only => asked.read_only = true,
                _ if asked.tag.is_none() && !asked.read_only => {
                    asked.tag = Some(tag(part.to_owned())?);
                }
                _ => return Err(wrong("too many parts")),
            }
        }
        Ok(asked)
    }

    fn path(&self) -> Option<&Path> {
        match &self.endpoint {
            Endpoint::Path(path) => Some(path),
            Endpoint::Fd(_) => None,
        }
    }
}

/// Checks what is asked for together, and finds what each guest may keep. `cache`: if that was said.
pub(super) fn exports(
    asked: Vec<Asked>,
    options: Options,
    cache: Option<CacheMode>,
) -> Result<Vec<ExportConfig>, ConfigError> {
    let mut seen = HashSet::new();
    if let Some(twice) = asked
        .iter()
        .filter_map(Asked::path)
        .find(|path| !seen.insert(*path))
    {
        let reason = format!("the socket {} is given twice", twice.display());
        return Err(value("--socket-path", reason));
    }
    let writes = |one: &Asked| !one.read_only && !options.read_only;
    let exports = asked.iter().enumerate().map(|(index, one)| {
        let mut others = asked.iter().enumerate();
        let shared = others
            .any(|(other, each)| other != index && each.dataset == one.dataset && writes(each));
        let mut options = Options {
            read_only: !writes(one),
            shared,
            without_open: cache == Some(CacheMode::Always),
            ..options
        };
        options.cache = cache.unwrap_or(match shared {
            true => CacheMode::Auto,
            false => CacheMode::Always,
        });
        ExportConfig {
            dataset: one.dataset.clone(),
            endpoint: one.endpoint.clone(),
            tag: one.tag.clone(),
            options,
        }
    });
    Ok(exports.collect())
}

/// Guests that change a dataset together must not believe for long what they remember of it.
pub(super) fn staleness(exports: &[ExportConfig]) -> Vec<String> {
    let mut warnings = Vec::new();
    for ExportConfig {
        dataset, options, ..
    } in exports.iter().filter(|export| export.options.shared)
    {
        let cache = match options.cache {
            CacheMode::Always => Some("--cache=always"),
            CacheMode::Metadata => Some("--cache=metadata"),
            CacheMode::Auto | CacheMode::Never => None,
        };
        let uncached = matches!(options.cache, CacheMode::Metadata | CacheMode::Never);
        let flags = [
            cache,
            options.writeback.then_some("--writeback"),
            (options.allow_mmap && uncached).then_some("--allow-mmap"),
        ];
        for flag in flags.into_iter().flatten() {
            let warning = format!(
                "{flag} with several sockets of dataset '{dataset}': virtual machines do not see \
                 each other's changes"
            );
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Asked, String> {
        Asked::parse(text).map_err(|error| error.to_string())
    }

    #[test]
    fn an_export_has_up_to_four_parts() {
        let full = parse("web@monday:/run/web:files:ro").unwrap();
        assert_eq!(full.dataset, "web@monday");
        assert_eq!(full.endpoint, Endpoint::Path("/run/web".into()));
        assert_eq!((full.tag.as_deref(), full.read_only), (Some("files"), true));
        let short = parse("web:/run/web:ro").unwrap();
        assert!(short.read_only && short.tag.is_none());
        assert!(!parse("web:/run/web").unwrap().read_only);
        for wrong in [
            "",
            "web",
            "web:",
            ":/run/web",
            "web:/s:tag:ro:x",
            "web:/s:a:b",
            "web:/s:",
        ] {
            assert!(parse(wrong).unwrap_err().contains("--"), "{wrong}");
        }
    }

    #[test]
    fn guests_of_one_dataset_share_it_and_others_do_not() {
        let asked = ["a:/1", "a:/2:ro", "b:/3", "c:/4", "c:/5"].map(|text| parse(text).unwrap());
        let all = exports(asked.to_vec(), Options::default(), None).unwrap();
        let shared: Vec<_> = all.iter().map(|export| export.options.shared).collect();
        assert_eq!(shared, [false, true, false, true, true]);
        let cache = all.iter().map(|export| export.options.cache);
        let kept: Vec<_> = cache.map(|cache| cache == CacheMode::Always).collect();
        assert_eq!(kept, [true, false, true, false, false]);
        assert!(all[1].options.read_only && !all[0].options.read_only);
        let read_only = Options {
            read_only: true,
            ..Options::default()
        };
        let all = exports(asked.to_vec(), read_only, None).unwrap();
        assert!(
            all.iter()
                .all(|export| export.options.read_only && !export.options.shared)
        );
        let twice = ["a:/1", "b:/1"].map(|text| parse(text).unwrap());
        let error = exports(twice.to_vec(), Options::default(), None).unwrap_err();
        assert!(error.to_string().contains("/1"));
    }
}
